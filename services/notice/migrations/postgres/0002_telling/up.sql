-- Whatever is told over several media has one number, and lists are in the order of the telling: one index does for them and
-- for the inbox. What the release before tells over other media meanwhile has no number, and is last in the list.
UPDATE notice SET sequence = COALESCE((
  SELECT inbox.sequence FROM notice AS inbox
  WHERE inbox.order_name = notice.order_name AND inbox.kind = notice.kind AND inbox.medium = 'INBOX'
), 0) WHERE medium <> 'INBOX';
DROP INDEX notice_recipient;
DROP INDEX notice_inbox;
CREATE INDEX notice_told ON notice (recipient, sequence, name);

INSERT INTO mesh_meta (key, value) VALUES ('adds/0002', 'an index for two');
