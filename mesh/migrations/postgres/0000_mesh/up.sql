-- What the kit keeps in every context's store. Times are microseconds since 1970, UTC.

-- Facts about the store itself: its context, its epoch, its secret.
CREATE TABLE mesh_meta (
  key   TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  value TEXT COLLATE "C" NOT NULL
);

-- The log: append only, positions without a gap.
CREATE TABLE mesh_event (
  position       BIGINT PRIMARY KEY NOT NULL,
  event_id       TEXT COLLATE "C" NOT NULL,
  type           TEXT COLLATE "C" NOT NULL,
  subject        TEXT COLLATE "C" NOT NULL,
  sequence       BIGINT NOT NULL,
  time           BIGINT NOT NULL,
  correlation_id TEXT COLLATE "C" NOT NULL,
  causation_id   TEXT COLLATE "C" NOT NULL,
  traceparent    TEXT COLLATE "C" NOT NULL,
  partition      INTEGER NOT NULL,
  data           BYTEA NOT NULL,
  UNIQUE (subject, sequence)
);

-- Which lives the log has had: each begins behind the last position of the one before that is still there. `origin` is
-- the server and its timeline: a failover or a restore begins a new life.
CREATE TABLE mesh_epoch (
  number      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  epoch       TEXT COLLATE "C" NOT NULL UNIQUE,
  origin      TEXT COLLATE "C" NOT NULL,
  begins_with BIGINT NOT NULL
);

-- How far each policy is in each log it reads, for each partition; in the transaction of the effect. Rows are added and
-- the newest counts: a row that is changed over and over leaves a dead one each time, and while somebody holds an old
-- snapshot all of them are walked through.
CREATE TABLE mesh_cursor (
  policy    TEXT COLLATE "C" NOT NULL,
  source    TEXT COLLATE "C" NOT NULL,
  partition INTEGER NOT NULL,
  position  BIGINT NOT NULL,
  epoch     TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (policy, source, partition, position)
);

-- The processes that serve this context now; the first sixteen share the partitions.
CREATE TABLE mesh_replica (
  name  TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  until BIGINT NOT NULL
);

-- Events in trouble: how often each was tried, counted before the try so that a crash counts.
CREATE TABLE mesh_attempt (
  policy   TEXT COLLATE "C" NOT NULL,
  event_id TEXT COLLATE "C" NOT NULL,
  failures INTEGER NOT NULL,
  crashes  INTEGER NOT NULL,
  PRIMARY KEY (policy, event_id)
);

-- Events that a policy could not handle, and those of the same subject behind them.
CREATE TABLE mesh_parked (
  policy   TEXT COLLATE "C" NOT NULL,
  position BIGINT NOT NULL,
  event_id TEXT COLLATE "C" NOT NULL,
  subject  TEXT COLLATE "C" NOT NULL,
  event    BYTEA NOT NULL,
  failure  TEXT COLLATE "C" NOT NULL,
  attempts INTEGER NOT NULL,
  time     BIGINT NOT NULL,
  PRIMARY KEY (policy, event_id)
);
CREATE INDEX mesh_parked_subject ON mesh_parked (policy, subject, position);

-- Commands carried out, with their answers.
CREATE TABLE mesh_request (
  caller     TEXT COLLATE "C" NOT NULL,
  method     TEXT COLLATE "C" NOT NULL,
  request_id TEXT COLLATE "C" NOT NULL,
  hash       BYTEA NOT NULL,
  answer     BYTEA NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (caller, method, request_id)
);
CREATE INDEX mesh_request_time ON mesh_request (time);

-- Orders that wait for a callee: hidden until they are registered. An intent that ended for a passing reason gives
-- its request_id free: the column is NULL.
CREATE TABLE mesh_intent (
  name          TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  command       TEXT COLLATE "C" NOT NULL,
  caller        TEXT COLLATE "C" NOT NULL,
  request_id    TEXT COLLATE "C",
  hash          BYTEA NOT NULL,
  state         TEXT COLLATE "C" NOT NULL,
  intent_order  BYTEA NOT NULL,
  answer        BYTEA NOT NULL,
  undo_attempts INTEGER NOT NULL,
  last_failure  TEXT COLLATE "C" NOT NULL,
  time          BIGINT NOT NULL,
  UNIQUE (caller, command, request_id)
);
-- Only what is not settled is ever looked for by its state.
CREATE INDEX mesh_intent_open ON mesh_intent (time) WHERE state IN ('PENDING', 'VOIDING');

-- A view that can be made anew: which generation is read, and which one is being made.
CREATE TABLE mesh_view (
  one      INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  current  INTEGER NOT NULL,
  building INTEGER NOT NULL
);
INSERT INTO mesh_view (one, current, building) VALUES (1, 1, 1);
