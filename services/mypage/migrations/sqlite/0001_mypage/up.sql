-- A view: every row of it is of a generation, and can be made anew from events. Times are microseconds since 1970, UTC.

-- One row an order, whatever its system. Hidden until the order's own first event has come (visible = 0): then only the
-- columns that other contexts' events tell are known.
CREATE TABLE my_order (
  generation    INTEGER NOT NULL,
  name          TEXT NOT NULL,
  system        TEXT NOT NULL,
  customer      TEXT NOT NULL,
  title         TEXT NOT NULL,
  quantity      INTEGER NOT NULL,
  currency      TEXT NOT NULL,
  amount        BIGINT NOT NULL,
  state         TEXT NOT NULL,
  payment_state TEXT NOT NULL,
  create_time   BIGINT NOT NULL,
  update_time   BIGINT NOT NULL,
  visible       BOOLEAN NOT NULL,
  change        BIGINT NOT NULL,
  PRIMARY KEY (generation, name)
) WITHOUT ROWID;
CREATE INDEX my_order_newest ON my_order (generation, customer, create_time, name) WHERE visible;
CREATE INDEX my_order_change ON my_order (generation, customer, change) WHERE visible;

-- Everything that happened to an order: one row an event.
CREATE TABLE my_progress (
  generation INTEGER NOT NULL,
  order_name TEXT NOT NULL,
  event_id   TEXT NOT NULL,
  event      TEXT NOT NULL,
  source     TEXT NOT NULL,
  subject    TEXT NOT NULL,
  sequence   BIGINT NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (generation, order_name, event_id)
) WITHOUT ROWID;
CREATE INDEX my_progress_subject ON my_progress (generation, subject, sequence);

-- The number of the last change of any row. It goes on over generations.
CREATE TABLE my_change (
  one  INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  last BIGINT NOT NULL
);
INSERT INTO my_change (one, last) VALUES (1, 0);
