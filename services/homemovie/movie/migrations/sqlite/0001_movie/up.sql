-- The catalogue.
CREATE TABLE movie (
  name        TEXT PRIMARY KEY NOT NULL,
  title       TEXT NOT NULL,
  currency    TEXT NOT NULL,
  price       BIGINT NOT NULL CHECK (price > 0),
  media       TEXT NOT NULL,
  state       TEXT NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
) WITHOUT ROWID;

-- One purchased copy for each application; a cancel that came first leaves one, too.
CREATE TABLE movie_purchase (
  name        TEXT PRIMARY KEY NOT NULL,
  application TEXT NOT NULL UNIQUE,
  customer    TEXT NOT NULL,
  movie       TEXT NOT NULL,
  state       TEXT NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
) WITHOUT ROWID;
