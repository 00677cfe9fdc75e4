-- The catalogue.
CREATE TABLE movie (
  name        TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  title       TEXT COLLATE "C" NOT NULL,
  currency    TEXT COLLATE "C" NOT NULL,
  price       BIGINT NOT NULL CHECK (price > 0),
  media       TEXT COLLATE "C" NOT NULL,
  state       TEXT COLLATE "C" NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
);

-- One purchased copy for each application; a cancel that came first leaves one, too.
CREATE TABLE movie_purchase (
  name        TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  application TEXT COLLATE "C" NOT NULL UNIQUE,
  customer    TEXT COLLATE "C" NOT NULL,
  movie       TEXT COLLATE "C" NOT NULL,
  state       TEXT COLLATE "C" NOT NULL,
  create_time BIGINT NOT NULL,
  revision    BIGINT NOT NULL
);
