-- Performances and who has their seats. Times are microseconds since 1970, UTC.

-- reservable_seats + the seats of the holds that were not returned = total_seats, always.
CREATE TABLE musical (
  name             TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  musical_number   BIGINT NOT NULL UNIQUE,
  title            TEXT COLLATE "C" NOT NULL,
  venue            TEXT COLLATE "C" NOT NULL,
  performance_time BIGINT NOT NULL,
  sales_start_time BIGINT,
  sales_end_time   BIGINT,
  currency         TEXT COLLATE "C" NOT NULL,
  price_per_seat   BIGINT NOT NULL CHECK (price_per_seat > 0),
  total_seats      INTEGER NOT NULL CHECK (total_seats > 0),
  reservable_seats INTEGER NOT NULL CHECK (reservable_seats >= 0 AND reservable_seats <= total_seats),
  state            TEXT COLLATE "C" NOT NULL,
  create_time      BIGINT NOT NULL,
  revision         BIGINT NOT NULL
);

-- One hold a reservation. One that never will take any seats is a tombstone: no musical, no seats, returned.
CREATE TABLE seat_hold (
  reservation TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  musical     TEXT COLLATE "C" NOT NULL,
  seats       INTEGER NOT NULL CHECK (seats >= 0),
  currency    TEXT COLLATE "C" NOT NULL,
  amount      BIGINT NOT NULL,
  left_free   INTEGER NOT NULL,
  returned    BOOLEAN NOT NULL
);
CREATE INDEX seat_hold_musical ON seat_hold (musical) WHERE NOT returned;
