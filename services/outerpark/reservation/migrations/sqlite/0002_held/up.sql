-- What a customer holds of a performance, for its limit.
CREATE INDEX reservation_held ON reservation (customer, musical, seats) WHERE state = 'SEATS_RESERVED';

INSERT INTO mesh_meta (key, value) VALUES ('adds/0002', 'an index');
