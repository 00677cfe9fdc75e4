-- Accounts and what is kept of refresh tokens. Times are microseconds since 1970, UTC.

CREATE TABLE account (
  name          TEXT PRIMARY KEY NOT NULL,
  -- As it was given, and in the one spelling that is compared.
  email         TEXT NOT NULL,
  email_key     TEXT NOT NULL UNIQUE,
  display_name  TEXT NOT NULL,
  -- en, ko.
  language_code TEXT NOT NULL,
  -- Words parted by spaces.
  roles         TEXT NOT NULL,
  -- argon2id, a PHC string.
  password_hash TEXT NOT NULL,
  create_time   BIGINT NOT NULL
) WITHOUT ROWID;

-- A token is never kept, only its SHA-256. Those of one sign-in are a family: they are revoked together, by removal.
CREATE TABLE refresh_token (
  hash        TEXT PRIMARY KEY NOT NULL,
  sign_in     TEXT NOT NULL,
  account     TEXT NOT NULL,
  expire_time BIGINT NOT NULL,
  -- When it was exchanged for the next pair.
  spend_time  BIGINT
) WITHOUT ROWID;
CREATE INDEX refresh_token_by_sign_in ON refresh_token (sign_in);
CREATE INDEX refresh_token_by_expire_time ON refresh_token (expire_time);
