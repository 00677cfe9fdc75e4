-- Registered reservations; what has no seats yet is in mesh_intent.
CREATE TABLE reservation (
  name          TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  customer      TEXT COLLATE "C" NOT NULL,
  musical       TEXT COLLATE "C" NOT NULL,
  musical_title TEXT COLLATE "C" NOT NULL,
  performance   BIGINT NOT NULL,
  seats         INTEGER NOT NULL CHECK (seats > 0),
  currency      TEXT COLLATE "C" NOT NULL,
  amount        BIGINT NOT NULL,
  state         TEXT COLLATE "C" NOT NULL,
  -- Whether it was ever paid, whatever came of it.
  confirmed     BOOLEAN NOT NULL,
  hold_expires  BIGINT NOT NULL,
  create_time   BIGINT NOT NULL,
  revision      BIGINT NOT NULL
);
CREATE INDEX reservation_customer ON reservation (customer, name);
-- What the clock looks for.
CREATE INDEX reservation_hold ON reservation (hold_expires) WHERE state = 'SEATS_RESERVED';

-- What is known here of the performances: a copy, from events.
CREATE TABLE performance (
  name        TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  title       TEXT COLLATE "C" NOT NULL,
  currency    TEXT COLLATE "C" NOT NULL,
  price       BIGINT NOT NULL,
  time        BIGINT NOT NULL,
  withdrawn   BOOLEAN NOT NULL
);
