-- What the release after this one may do to a store that this one still uses (only where a test plays that release).
CREATE TABLE mesh_of_the_next_release (name TEXT PRIMARY KEY NOT NULL);
ALTER TABLE mesh_event ADD COLUMN of_the_next_release TEXT NOT NULL DEFAULT '';
INSERT INTO mesh_meta (key, value) VALUES ('adds/99990', 'a table, and a column of the log');
