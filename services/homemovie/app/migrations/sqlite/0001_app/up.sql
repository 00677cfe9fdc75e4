-- Registered applications; what is not paid is in mesh_intent.
CREATE TABLE movie_application (
  name        TEXT PRIMARY KEY NOT NULL,
  customer    TEXT NOT NULL,
  movie       TEXT NOT NULL,
  movie_title TEXT NOT NULL,
  currency    TEXT NOT NULL,
  price       BIGINT NOT NULL,
  state       TEXT NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX movie_application_customer ON movie_application (customer, name);

-- What is known here of the catalogue: a copy, from events.
CREATE TABLE film (
  name      TEXT PRIMARY KEY NOT NULL,
  title     TEXT NOT NULL,
  currency  TEXT NOT NULL,
  price     BIGINT NOT NULL,
  withdrawn BOOLEAN NOT NULL
) WITHOUT ROWID;
