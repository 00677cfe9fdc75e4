-- A stand-in keeps nothing but the kit's log.
CREATE TABLE stand_in (one INTEGER PRIMARY KEY NOT NULL);
