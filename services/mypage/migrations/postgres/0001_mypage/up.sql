-- A view: every row of it is of a generation, and can be made anew from events. Times are microseconds since 1970, UTC.

-- One row an order, whatever its system. Hidden until the order's own first event has come (visible = 0): then only the
-- columns that other contexts' events tell are known.
CREATE TABLE my_order (
  generation    INTEGER NOT NULL,
  name          TEXT COLLATE "C" NOT NULL,
  system        TEXT COLLATE "C" NOT NULL,
  customer      TEXT COLLATE "C" NOT NULL,
  title         TEXT COLLATE "C" NOT NULL,
  quantity      INTEGER NOT NULL,
  currency      TEXT COLLATE "C" NOT NULL,
  amount        BIGINT NOT NULL,
  state         TEXT COLLATE "C" NOT NULL,
  payment_state TEXT COLLATE "C" NOT NULL,
  create_time   BIGINT NOT NULL,
  update_time   BIGINT NOT NULL,
  visible       BOOLEAN NOT NULL,
  change        BIGINT NOT NULL,
  PRIMARY KEY (generation, name)
);
CREATE INDEX my_order_newest ON my_order (generation, customer, create_time, name) WHERE visible;
CREATE INDEX my_order_change ON my_order (generation, customer, change) WHERE visible;

-- Everything that happened to an order: one row an event.
CREATE TABLE my_progress (
  generation INTEGER NOT NULL,
  order_name TEXT COLLATE "C" NOT NULL,
  event_id   TEXT COLLATE "C" NOT NULL,
  event      TEXT COLLATE "C" NOT NULL,
  source     TEXT COLLATE "C" NOT NULL,
  subject    TEXT COLLATE "C" NOT NULL,
  sequence   BIGINT NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (generation, order_name, event_id)
);
CREATE INDEX my_progress_subject ON my_progress (generation, subject, sequence);

-- The number of the last change of any row. It goes on over generations.
CREATE TABLE my_change (
  one  INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  last BIGINT NOT NULL
);
INSERT INTO my_change (one, last) VALUES (1, 0);
