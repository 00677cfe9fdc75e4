-- What changed is looked for once, for all who watch.
DROP INDEX my_order_change;
CREATE INDEX my_order_change ON my_order (generation, change) WHERE visible;

INSERT INTO mesh_meta (key, value) VALUES ('adds/0002', 'an index instead of another');
