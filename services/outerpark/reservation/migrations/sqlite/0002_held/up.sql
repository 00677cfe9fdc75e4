-- What a customer holds of a performance, for its limit. With the state, nothing but the index is read.
CREATE INDEX reservation_held ON reservation (customer, musical, state, seats) WHERE state = 'SEATS_RESERVED';

INSERT INTO mesh_meta (key, value) VALUES ('adds/0002', 'an index');
