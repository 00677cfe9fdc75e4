-- Accounts and what is kept of refresh tokens. Times are microseconds since 1970, UTC.

CREATE TABLE account (
  name          TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  -- As it was given, and in the one spelling that is compared.
  email         TEXT COLLATE "C" NOT NULL,
  email_key     TEXT COLLATE "C" NOT NULL UNIQUE,
  display_name  TEXT COLLATE "C" NOT NULL,
  -- en, ko.
  language_code TEXT COLLATE "C" NOT NULL,
  -- Words parted by spaces.
  roles         TEXT COLLATE "C" NOT NULL,
  -- argon2id, a PHC string.
  password_hash TEXT COLLATE "C" NOT NULL,
  create_time   BIGINT NOT NULL
);

-- A token is never kept, only its SHA-256. Those of one sign-in are a family: they are revoked together, by removal.
CREATE TABLE refresh_token (
  hash        TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  sign_in     TEXT COLLATE "C" NOT NULL,
  account     TEXT COLLATE "C" NOT NULL,
  expire_time BIGINT NOT NULL,
  -- When it was exchanged for the next pair.
  spend_time  BIGINT
);
CREATE INDEX refresh_token_by_sign_in ON refresh_token (sign_in);
CREATE INDEX refresh_token_by_expire_time ON refresh_token (expire_time);
