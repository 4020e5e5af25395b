-- How a connection is used, how it ends, and where its zones lead.

ALTER TABLE connections ADD COLUMN max_connections bigint NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN expiry_drain bigint NOT NULL DEFAULT 0;

ALTER TABLE endpoint_zones ADD COLUMN drain_until timestamp;
ALTER TABLE endpoint_zones ADD COLUMN rejected boolean NOT NULL DEFAULT false;
ALTER TABLE endpoint_zones ADD COLUMN manual boolean NOT NULL DEFAULT false;
ALTER TABLE endpoint_zones ADD COLUMN replaced_id text NOT NULL DEFAULT '';
ALTER TABLE endpoint_zones ADD COLUMN era bigint NOT NULL DEFAULT 0;

CREATE INDEX endpoint_zones_replaced ON endpoint_zones (replaced_id, zone_id, endpoint_id) WHERE replaced_id <> '';
