-- Load balancers, listeners and server groups in full.

ALTER TABLE load_balancers ADD COLUMN cps bigint NOT NULL DEFAULT 0;

ALTER TABLE listeners ADD COLUMN port_from bigint NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN port_to bigint NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN cps bigint NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN max_connections bigint NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN mss bigint NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN proxy_enabled boolean NOT NULL DEFAULT false;
ALTER TABLE listeners ADD COLUMN proxy_dialect text NOT NULL DEFAULT '';
ALTER TABLE listeners ADD COLUMN proxy_vpc boolean NOT NULL DEFAULT false;
ALTER TABLE listeners ADD COLUMN proxy_endpoint boolean NOT NULL DEFAULT false;
ALTER TABLE listeners ADD COLUMN proxy_service boolean NOT NULL DEFAULT false;

ALTER TABLE server_groups ADD COLUMN type text NOT NULL DEFAULT 'nlb';
ALTER TABLE server_groups ADD COLUMN kept boolean NOT NULL DEFAULT false;
ALTER TABLE server_groups ADD COLUMN protocol text NOT NULL DEFAULT 'tcp';
ALTER TABLE server_groups ADD COLUMN any_port boolean NOT NULL DEFAULT false;
ALTER TABLE server_groups ADD COLUMN drain bigint NOT NULL DEFAULT 0;
ALTER TABLE server_groups ADD COLUMN slow_start bigint NOT NULL DEFAULT 0;
ALTER TABLE server_groups ADD COLUMN fail_closed boolean NOT NULL DEFAULT false;
ALTER TABLE server_groups ADD COLUMN reset_on_unhealthy boolean NOT NULL DEFAULT false;
ALTER TABLE server_groups ADD COLUMN health_type text NOT NULL DEFAULT 'tcp';
ALTER TABLE server_groups ADD COLUMN health_proxy boolean NOT NULL DEFAULT false;
ALTER TABLE server_groups ADD COLUMN health_method text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_path text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_host text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_version text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_codes text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_request text NOT NULL DEFAULT '';
ALTER TABLE server_groups ADD COLUMN health_expect text NOT NULL DEFAULT '';

ALTER TABLE servers ADD COLUMN dns_name text NOT NULL DEFAULT '';

-- Ranges have port 0.
DROP INDEX listeners_port;
CREATE UNIQUE INDEX listeners_port ON listeners (load_balancer_id, protocol, port, port_from);
