-- What the tests' policies and sagas did, in the order they did it.
CREATE TABLE handled (
  id         INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  policy     TEXT NOT NULL,
  subject    TEXT NOT NULL,
  sequence   BIGINT NOT NULL,
  generation INTEGER NOT NULL
);
