-- Payments, and what is to be given back. Times are microseconds since 1970, UTC.

-- One payment an order. PENDING and VOIDED are hidden: a charge under way, and the tombstone of an order that must
-- never be charged.
CREATE TABLE payment (
  name               TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  order_name         TEXT COLLATE "C" NOT NULL UNIQUE,
  customer           TEXT COLLATE "C" NOT NULL,
  currency           TEXT COLLATE "C" NOT NULL,
  amount             BIGINT NOT NULL,
  refunded           BIGINT NOT NULL,
  state              TEXT COLLATE "C" NOT NULL,
  reason             TEXT COLLATE "C" NOT NULL,
  provider_reference TEXT COLLATE "C" NOT NULL,
  revision           BIGINT NOT NULL,
  create_time        BIGINT NOT NULL
);
CREATE INDEX payment_customer ON payment (customer, name);
-- Only what is not settled is ever looked for by its state.
CREATE INDEX payment_pending ON payment (create_time) WHERE state = 'PENDING';

-- What the provider must give back, until it says that it did. The payment itself may be gone.
CREATE TABLE payment_refund_due (
  payment  TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  currency TEXT COLLATE "C" NOT NULL,
  amount   BIGINT NOT NULL,
  cause    TEXT COLLATE "C" NOT NULL,
  attempts INTEGER NOT NULL,
  due_time BIGINT NOT NULL
);
CREATE INDEX payment_refund_due_time ON payment_refund_due (due_time);
