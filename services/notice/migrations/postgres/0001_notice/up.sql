-- Notices. Times are microseconds since 1970, UTC.

-- One row an order, kind and medium: whatever is told again finds it. No address is kept.
CREATE TABLE notice (
  name              TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  recipient         TEXT COLLATE "C" NOT NULL,
  order_name        TEXT COLLATE "C" NOT NULL,
  kind              TEXT COLLATE "C" NOT NULL,
  -- en, ko: what the text is in.
  language_code     TEXT COLLATE "C" NOT NULL,
  text              TEXT COLLATE "C" NOT NULL,
  medium            TEXT COLLATE "C" NOT NULL,
  state             TEXT COLLATE "C" NOT NULL,
  attempts          INTEGER NOT NULL,
  -- While it is QUEUED: not before.
  next_attempt_time BIGINT NOT NULL,
  last_failure      TEXT COLLATE "C" NOT NULL,
  create_time       BIGINT NOT NULL,
  -- Of those in the inbox: where it stands in what was told at all. 0: another medium.
  sequence          BIGINT NOT NULL,
  UNIQUE (order_name, kind, medium)
);
CREATE INDEX notice_recipient ON notice (recipient, name);
CREATE INDEX notice_inbox ON notice (recipient, sequence) WHERE medium = 'INBOX';
-- Only what is not settled is ever looked for by its time.
CREATE INDEX notice_due ON notice (medium, next_attempt_time) WHERE state = 'QUEUED';

-- The number of the last notice that was told.
CREATE TABLE notice_sequence (
  one  INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
  last BIGINT NOT NULL
);
INSERT INTO notice_sequence (one, last) VALUES (1, 0);
