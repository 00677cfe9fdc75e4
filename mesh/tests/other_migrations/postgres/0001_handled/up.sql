-- What the tests' policies and sagas did, in the order they did it.
CREATE TABLE handled (
  id         INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  policy     TEXT NOT NULL,
  subject    TEXT NOT NULL,
  sequence   BIGINT NOT NULL,
  generation INTEGER NOT NULL
);
