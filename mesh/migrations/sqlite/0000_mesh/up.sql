-- What the kit keeps in every context's store. Times are microseconds since 1970, UTC.

-- Facts about the store itself: its context, its epoch, its secret.
CREATE TABLE mesh_meta (
  key   TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- The log: append only, positions without a gap.
CREATE TABLE mesh_event (
  position       INTEGER PRIMARY KEY NOT NULL,
  event_id       TEXT NOT NULL,
  type           TEXT NOT NULL,
  subject        TEXT NOT NULL,
  sequence       BIGINT NOT NULL,
  time           BIGINT NOT NULL,
  correlation_id TEXT NOT NULL,
  causation_id   TEXT NOT NULL,
  traceparent    TEXT NOT NULL,
  partition      INTEGER NOT NULL,
  data           BLOB NOT NULL,
  UNIQUE (subject, sequence)
);

-- The last position given: kept apart, so that a trimmed log never gives one again.
CREATE TABLE mesh_event_head (
  one      INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  position BIGINT NOT NULL
);
INSERT INTO mesh_event_head (one, position) VALUES (1, 0);

-- How far each policy is in each log it reads; moved in the transaction of the effect.
-- partition -1: all sixteen, while one process has them all.
CREATE TABLE mesh_cursor (
  policy    TEXT NOT NULL,
  source    TEXT NOT NULL,
  partition INTEGER NOT NULL,
  epoch     TEXT NOT NULL,
  position  BIGINT NOT NULL,
  PRIMARY KEY (policy, source, partition)
) WITHOUT ROWID;

-- Events in trouble: how often each was tried, counted before the try so that a crash counts.
CREATE TABLE mesh_attempt (
  policy   TEXT NOT NULL,
  event_id TEXT NOT NULL,
  failures INTEGER NOT NULL,
  crashes  INTEGER NOT NULL,
  PRIMARY KEY (policy, event_id)
) WITHOUT ROWID;

-- Events that a policy could not handle, and those of the same subject behind them.
CREATE TABLE mesh_parked (
  policy   TEXT NOT NULL,
  position BIGINT NOT NULL,
  event_id TEXT NOT NULL,
  subject  TEXT NOT NULL,
  event    BLOB NOT NULL,
  failure  TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  time     BIGINT NOT NULL,
  PRIMARY KEY (policy, event_id)
) WITHOUT ROWID;
CREATE INDEX mesh_parked_subject ON mesh_parked (policy, subject, position);

-- Commands carried out, with their answers.
CREATE TABLE mesh_request (
  caller     TEXT NOT NULL,
  method     TEXT NOT NULL,
  request_id TEXT NOT NULL,
  hash       BLOB NOT NULL,
  answer     BLOB NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (caller, method, request_id)
) WITHOUT ROWID;
CREATE INDEX mesh_request_time ON mesh_request (time);

-- Orders that wait for a callee: hidden until they are registered. An intent that ended for a passing reason gives
-- its request_id free: the column is NULL.
CREATE TABLE mesh_intent (
  name          TEXT PRIMARY KEY NOT NULL,
  command       TEXT NOT NULL,
  caller        TEXT NOT NULL,
  request_id    TEXT,
  hash          BLOB NOT NULL,
  state         TEXT NOT NULL,
  intent_order  BLOB NOT NULL,
  answer        BLOB NOT NULL,
  undo_attempts INTEGER NOT NULL,
  last_failure  TEXT NOT NULL,
  time          BIGINT NOT NULL,
  UNIQUE (caller, command, request_id)
) WITHOUT ROWID;
-- Only what is not settled is ever looked for by its state.
CREATE INDEX mesh_intent_open ON mesh_intent (time) WHERE state IN ('PENDING', 'VOIDING');

-- A view that can be made anew: which generation is read, and which one is being made.
CREATE TABLE mesh_view (
  one      INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  current  INTEGER NOT NULL,
  building INTEGER NOT NULL
);
INSERT INTO mesh_view (one, current, building) VALUES (1, 1, 1);
