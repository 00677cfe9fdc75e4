-- Registered reservations; what has no seats yet is in mesh_intent.
CREATE TABLE reservation (
  name          TEXT PRIMARY KEY NOT NULL,
  customer      TEXT NOT NULL,
  musical       TEXT NOT NULL,
  musical_title TEXT NOT NULL,
  performance   BIGINT NOT NULL,
  seats         INTEGER NOT NULL CHECK (seats > 0),
  currency      TEXT NOT NULL,
  amount        BIGINT NOT NULL,
  state         TEXT NOT NULL,
  -- Whether it was ever paid, whatever came of it.
  confirmed     BOOLEAN NOT NULL,
  hold_expires  BIGINT NOT NULL,
  create_time   BIGINT NOT NULL,
  revision      BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservation_customer ON reservation (customer, name);
-- What the clock looks for.
CREATE INDEX reservation_hold ON reservation (hold_expires) WHERE state = 'SEATS_RESERVED';

-- What is known here of the performances: a copy, from events.
CREATE TABLE performance (
  name        TEXT PRIMARY KEY NOT NULL,
  title       TEXT NOT NULL,
  currency    TEXT NOT NULL,
  price       BIGINT NOT NULL,
  time        BIGINT NOT NULL,
  withdrawn   BOOLEAN NOT NULL
) WITHOUT ROWID;
