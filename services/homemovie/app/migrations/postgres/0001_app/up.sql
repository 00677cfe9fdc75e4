-- Registered applications; what is not paid is in mesh_intent.
CREATE TABLE movie_application (
  name        TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  customer    TEXT COLLATE "C" NOT NULL,
  movie       TEXT COLLATE "C" NOT NULL,
  movie_title TEXT COLLATE "C" NOT NULL,
  currency    TEXT COLLATE "C" NOT NULL,
  price       BIGINT NOT NULL,
  state       TEXT COLLATE "C" NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
);
CREATE INDEX movie_application_customer ON movie_application (customer, name);

-- What is known here of the catalogue: a copy, from events.
CREATE TABLE film (
  name      TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  title     TEXT COLLATE "C" NOT NULL,
  currency  TEXT COLLATE "C" NOT NULL,
  price     BIGINT NOT NULL,
  withdrawn BOOLEAN NOT NULL
);
