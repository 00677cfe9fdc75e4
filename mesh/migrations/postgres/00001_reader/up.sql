-- Who reads this log: how far each policy was when it last came. What it has not behind it is never trimmed.
-- partition -1: all sixteen.
CREATE TABLE mesh_reader (
  policy    TEXT COLLATE "C" NOT NULL,
  partition INTEGER NOT NULL,
  epoch     TEXT COLLATE "C" NOT NULL,
  position  BIGINT NOT NULL,
  PRIMARY KEY (policy, partition)
);
