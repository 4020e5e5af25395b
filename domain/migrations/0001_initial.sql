-- The first schema. SQLite and PostgreSQL both run this file. Identifiers and
-- words are text; times are UTC. What belongs to a tenant carries account_id, and
-- every list a tenant sees has an index that begins with it and ends in the id.

CREATE TABLE sites (
  id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  PRIMARY KEY (id)
);

-- Every account belongs to a site, and one is enough for most installations.
INSERT INTO sites (id, name) VALUES ('default', 'Default');

CREATE TABLE regions (
  id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  mainland boolean NOT NULL DEFAULT false,
  PRIMARY KEY (id)
);

CREATE TABLE zones (
  id text NOT NULL DEFAULT '',
  region_id text NOT NULL REFERENCES regions (id),
  name text NOT NULL DEFAULT '',
  PRIMARY KEY (id)
);

CREATE TABLE accounts (
  id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  site_id text NOT NULL REFERENCES sites (id),
  state text NOT NULL DEFAULT '',
  demo boolean NOT NULL DEFAULT false,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE users (
  id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  display_name text NOT NULL DEFAULT '',
  password_hash text NOT NULL DEFAULT '',
  operator boolean NOT NULL DEFAULT false,
  disabled boolean NOT NULL DEFAULT false,
  demo boolean NOT NULL DEFAULT false,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE memberships (
  user_id text NOT NULL REFERENCES users (id),
  account_id text NOT NULL REFERENCES accounts (id),
  role text NOT NULL DEFAULT '',
  PRIMARY KEY (user_id, account_id)
);

CREATE TABLE sessions (
  id text NOT NULL DEFAULT '',
  token_hash text NOT NULL DEFAULT '',
  user_id text NOT NULL REFERENCES users (id),
  address text NOT NULL DEFAULT '',
  agent text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  seen_at timestamp NOT NULL,
  expires_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE sign_in_links (
  token_hash text NOT NULL DEFAULT '',
  user_id text NOT NULL REFERENCES users (id),
  expires_at timestamp NOT NULL,
  used_at timestamp,
  PRIMARY KEY (token_hash)
);

CREATE TABLE access_keys (
  id text NOT NULL DEFAULT '',
  user_id text NOT NULL REFERENCES users (id),
  account_id text NOT NULL REFERENCES accounts (id),
  sealed bytea,
  state text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  last_used_at timestamp,
  PRIMARY KEY (id)
);

CREATE TABLE quota (
  account_id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  value bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (account_id, name)
);

CREATE TABLE form_tokens (
  account_id text NOT NULL DEFAULT '',
  token text NOT NULL DEFAULT '',
  action text NOT NULL DEFAULT '',
  digest text NOT NULL DEFAULT '',
  result text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  PRIMARY KEY (account_id, token)
);

CREATE TABLE vpcs (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL REFERENCES accounts (id),
  region_id text NOT NULL REFERENCES regions (id),
  name text NOT NULL DEFAULT '',
  cidr text NOT NULL DEFAULT '',
  number bigint NOT NULL DEFAULT 0,
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  engine_up boolean NOT NULL DEFAULT false,
  engine_error text NOT NULL DEFAULT '',
  PRIMARY KEY (id)
);

CREATE TABLE vswitches (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  zone_id text NOT NULL REFERENCES zones (id),
  name text NOT NULL DEFAULT '',
  cidr text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE addresses (
  vpc_id text NOT NULL REFERENCES vpcs (id),
  address text NOT NULL DEFAULT '',
  vswitch_id text NOT NULL REFERENCES vswitches (id),
  owner_kind text NOT NULL DEFAULT '',
  owner_id text NOT NULL DEFAULT '',
  PRIMARY KEY (vpc_id, address)
);

CREATE TABLE security_groups (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  name text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  type text NOT NULL DEFAULT '',
  intra_policy text NOT NULL DEFAULT '',
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE security_rules (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  group_id text NOT NULL REFERENCES security_groups (id),
  direction text NOT NULL DEFAULT '',
  priority bigint NOT NULL DEFAULT 0,
  policy text NOT NULL DEFAULT '',
  protocol text NOT NULL DEFAULT '',
  port_from bigint NOT NULL DEFAULT 0,
  port_to bigint NOT NULL DEFAULT 0,
  peer_cidr text NOT NULL DEFAULT '',
  peer_group_id text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE attachments (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  vswitch_id text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  kind text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  offer_id text NOT NULL DEFAULT '',
  host_port bigint NOT NULL DEFAULT 0,
  target_ip text NOT NULL DEFAULT '',
  target bigint NOT NULL DEFAULT 0,
  command text NOT NULL DEFAULT '',
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  engine_up boolean NOT NULL DEFAULT false,
  engine_error text NOT NULL DEFAULT '',
  PRIMARY KEY (id)
);

CREATE TABLE attachment_groups (
  attachment_id text NOT NULL REFERENCES attachments (id),
  group_id text NOT NULL REFERENCES security_groups (id),
  account_id text NOT NULL DEFAULT '',
  PRIMARY KEY (attachment_id, group_id)
);

CREATE TABLE offers (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  label text NOT NULL DEFAULT '',
  kind text NOT NULL DEFAULT '',
  path text NOT NULL DEFAULT '',
  inode bigint NOT NULL DEFAULT 0,
  device text NOT NULL DEFAULT '',
  device_no bigint NOT NULL DEFAULT 0,
  host_ip text NOT NULL DEFAULT '',
  port_from bigint NOT NULL DEFAULT 0,
  port_to bigint NOT NULL DEFAULT 0,
  demo boolean NOT NULL DEFAULT false,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE route_tables (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  name text NOT NULL DEFAULT '',
  type text NOT NULL DEFAULT '',
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE routes (
  table_id text NOT NULL REFERENCES route_tables (id),
  destination text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  next_hop_type text NOT NULL DEFAULT '',
  next_hop_id text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  PRIMARY KEY (table_id, destination)
);

CREATE TABLE load_balancers (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  region_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  type text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  cross_zone boolean NOT NULL DEFAULT false,
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE load_balancer_zones (
  load_balancer_id text NOT NULL REFERENCES load_balancers (id),
  zone_id text NOT NULL REFERENCES zones (id),
  account_id text NOT NULL DEFAULT '',
  vswitch_id text NOT NULL REFERENCES vswitches (id),
  address text NOT NULL DEFAULT '',
  PRIMARY KEY (load_balancer_id, zone_id)
);

CREATE TABLE server_groups (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  name text NOT NULL DEFAULT '',
  scheduler text NOT NULL DEFAULT '',
  health_enabled boolean NOT NULL DEFAULT false,
  health_port bigint NOT NULL DEFAULT 0,
  health_interval bigint NOT NULL DEFAULT 0,
  health_timeout bigint NOT NULL DEFAULT 0,
  healthy_threshold bigint NOT NULL DEFAULT 0,
  unhealthy_threshold bigint NOT NULL DEFAULT 0,
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE listeners (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  load_balancer_id text NOT NULL REFERENCES load_balancers (id),
  protocol text NOT NULL DEFAULT '',
  port bigint NOT NULL DEFAULT 0,
  server_group_id text NOT NULL REFERENCES server_groups (id),
  idle_timeout bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (id)
);

CREATE TABLE servers (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  server_group_id text NOT NULL REFERENCES server_groups (id),
  attachment_id text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  port bigint NOT NULL DEFAULT 0,
  weight bigint NOT NULL DEFAULT 0,
  zone_id text NOT NULL DEFAULT '',
  health text NOT NULL DEFAULT '',
  health_reason text NOT NULL DEFAULT '',
  health_since timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE services (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL REFERENCES accounts (id),
  region_id text NOT NULL REFERENCES regions (id),
  name text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  status text NOT NULL DEFAULT '',
  resource_type text NOT NULL DEFAULT '',
  auto_accept boolean NOT NULL DEFAULT false,
  bandwidth bigint NOT NULL DEFAULT 0,
  zone_affinity boolean NOT NULL DEFAULT false,
  payer text NOT NULL DEFAULT '',
  pending_expiry bigint NOT NULL DEFAULT 0,
  protected boolean NOT NULL DEFAULT false,
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE service_resources (
  service_id text NOT NULL REFERENCES services (id),
  load_balancer_id text NOT NULL REFERENCES load_balancers (id),
  zone_id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  auto_allocate boolean NOT NULL DEFAULT false,
  PRIMARY KEY (service_id, load_balancer_id, zone_id)
);

CREATE TABLE service_users (
  service_id text NOT NULL REFERENCES services (id),
  user_account_id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  service_label text NOT NULL DEFAULT '',
  auto_accept boolean NOT NULL DEFAULT false,
  note text NOT NULL DEFAULT '',
  added_by text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  PRIMARY KEY (service_id, user_account_id)
);

CREATE TABLE endpoints (
  id text NOT NULL DEFAULT '',
  account_id text NOT NULL REFERENCES accounts (id),
  region_id text NOT NULL DEFAULT '',
  vpc_id text NOT NULL REFERENCES vpcs (id),
  service_id text NOT NULL DEFAULT '',
  provider_id text NOT NULL DEFAULT '',
  service_name text NOT NULL DEFAULT '',
  name text NOT NULL DEFAULT '',
  description text NOT NULL DEFAULT '',
  type text NOT NULL DEFAULT '',
  status text NOT NULL DEFAULT '',
  protected boolean NOT NULL DEFAULT false,
  demo boolean NOT NULL DEFAULT false,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE endpoint_groups (
  endpoint_id text NOT NULL REFERENCES endpoints (id),
  group_id text NOT NULL REFERENCES security_groups (id),
  account_id text NOT NULL DEFAULT '',
  PRIMARY KEY (endpoint_id, group_id)
);

CREATE TABLE endpoint_zones (
  endpoint_id text NOT NULL REFERENCES endpoints (id),
  zone_id text NOT NULL DEFAULT '',
  account_id text NOT NULL DEFAULT '',
  vswitch_id text NOT NULL REFERENCES vswitches (id),
  eni_id text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  load_balancer_id text NOT NULL DEFAULT '',
  status text NOT NULL DEFAULT '',
  engine_error text NOT NULL DEFAULT '',
  PRIMARY KEY (endpoint_id, zone_id)
);

CREATE TABLE connections (
  endpoint_id text NOT NULL REFERENCES endpoints (id),
  service_id text NOT NULL DEFAULT '',
  provider_id text NOT NULL DEFAULT '',
  consumer_id text NOT NULL DEFAULT '',
  status text NOT NULL DEFAULT '',
  decision text NOT NULL DEFAULT '',
  bandwidth bigint NOT NULL DEFAULT 0,
  request_message text NOT NULL DEFAULT '',
  requested_by text NOT NULL DEFAULT '',
  decision_message text NOT NULL DEFAULT '',
  decided_by text NOT NULL DEFAULT '',
  decided_at timestamp,
  expires_at timestamp,
  waiting_since timestamp NOT NULL,
  undo text NOT NULL DEFAULT '',
  rank bigint NOT NULL DEFAULT 0,
  version bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  PRIMARY KEY (endpoint_id)
);

CREATE TABLE audit_events (
  account_id text NOT NULL DEFAULT '',
  seq bigint NOT NULL DEFAULT 0,
  time timestamp NOT NULL,
  actor_kind text NOT NULL DEFAULT '',
  actor_id text NOT NULL DEFAULT '',
  actor_name text NOT NULL DEFAULT '',
  channel text NOT NULL DEFAULT '',
  source_ip text NOT NULL DEFAULT '',
  request_id text NOT NULL DEFAULT '',
  action text NOT NULL DEFAULT '',
  resource_kind text NOT NULL DEFAULT '',
  resource_id text NOT NULL DEFAULT '',
  resource_name text NOT NULL DEFAULT '',
  before text NOT NULL DEFAULT '',
  after text NOT NULL DEFAULT '',
  prev_hash text NOT NULL DEFAULT '',
  hash text NOT NULL DEFAULT '',
  PRIMARY KEY (account_id, seq)
);

CREATE TABLE engine_changes (
  revision bigint NOT NULL DEFAULT 0,
  kind text NOT NULL DEFAULT '',
  id text NOT NULL DEFAULT '',
  PRIMARY KEY (revision)
);

-- What the reconciler has still to read, in commit order.
CREATE TABLE revisions (
  id bigint NOT NULL PRIMARY KEY,
  revision bigint NOT NULL
);
INSERT INTO revisions (id, revision) VALUES (1, 0);

-- The end of each account's audit chain.
CREATE TABLE audit_heads (
  account_id text NOT NULL PRIMARY KEY,
  seq bigint NOT NULL,
  hash text NOT NULL
);

-- Facts of the installation itself, e.g. its id.
CREATE TABLE settings (
  name text NOT NULL PRIMARY KEY,
  value text NOT NULL
);

CREATE INDEX zones_region ON zones (region_id, id);
CREATE UNIQUE INDEX accounts_name ON accounts (name);
CREATE UNIQUE INDEX users_name ON users (name);
CREATE INDEX memberships_account ON memberships (account_id, user_id);
CREATE UNIQUE INDEX sessions_token ON sessions (token_hash);
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sign_in_links_user ON sign_in_links (user_id);
CREATE INDEX sign_in_links_expiry ON sign_in_links (expires_at);
CREATE INDEX access_keys_account ON access_keys (account_id, id);
CREATE INDEX access_keys_user ON access_keys (user_id, id);
CREATE INDEX form_tokens_age ON form_tokens (created_at);
CREATE INDEX vpcs_list ON vpcs (account_id, name, id);
CREATE UNIQUE INDEX vpcs_number ON vpcs (number) WHERE number > 0;
CREATE INDEX vswitches_vpc ON vswitches (vpc_id, id);
CREATE INDEX vswitches_list ON vswitches (account_id, name, id);
CREATE INDEX addresses_vswitch ON addresses (vswitch_id, address);
CREATE INDEX addresses_owner ON addresses (owner_id);
CREATE INDEX security_groups_list ON security_groups (account_id, name, id);
CREATE INDEX security_groups_vpc ON security_groups (vpc_id, name, id);
CREATE INDEX security_rules_group ON security_rules (group_id, direction, priority, id);
CREATE INDEX security_rules_peer ON security_rules (peer_group_id) WHERE peer_group_id <> '';
CREATE INDEX attachments_list ON attachments (account_id, name, id);
CREATE INDEX attachments_vpc ON attachments (vpc_id, name, id);
CREATE INDEX attachments_vswitch ON attachments (vswitch_id, id);
CREATE INDEX attachments_offer ON attachments (offer_id) WHERE offer_id <> '';
CREATE INDEX attachment_groups_group ON attachment_groups (group_id, attachment_id);
CREATE INDEX offers_account ON offers (account_id, id);
CREATE INDEX route_tables_list ON route_tables (account_id, name, id);
CREATE INDEX route_tables_vpc ON route_tables (vpc_id, id);
CREATE INDEX routes_hop ON routes (next_hop_id);
CREATE INDEX load_balancers_list ON load_balancers (account_id, name, id);
CREATE INDEX load_balancers_vpc ON load_balancers (vpc_id, id);
CREATE INDEX load_balancer_zones_vswitch ON load_balancer_zones (vswitch_id);
CREATE UNIQUE INDEX listeners_port ON listeners (load_balancer_id, protocol, port);
CREATE INDEX listeners_group ON listeners (server_group_id);
CREATE INDEX server_groups_list ON server_groups (account_id, name, id);
CREATE INDEX server_groups_vpc ON server_groups (vpc_id, id);
CREATE INDEX servers_group ON servers (server_group_id, id);
CREATE INDEX servers_attachment ON servers (attachment_id) WHERE attachment_id <> '';
CREATE INDEX services_list ON services (account_id, name, id);
CREATE INDEX services_expiry ON services (id) WHERE pending_expiry > 0;
CREATE INDEX service_resources_balancer ON service_resources (load_balancer_id, service_id);
CREATE INDEX service_users_account ON service_users (user_account_id, service_label, service_id);
CREATE INDEX endpoints_list ON endpoints (account_id, name, id);
CREATE INDEX endpoints_vpc ON endpoints (vpc_id, name, id);
CREATE INDEX endpoints_service ON endpoints (service_id, id);
CREATE INDEX endpoints_mine ON endpoints (account_id, service_id);
CREATE INDEX endpoint_groups_group ON endpoint_groups (group_id, endpoint_id);
CREATE INDEX endpoint_zones_vswitch ON endpoint_zones (vswitch_id);
CREATE INDEX endpoint_zones_balancer ON endpoint_zones (load_balancer_id, zone_id, endpoint_id);
CREATE INDEX connections_inbox ON connections (provider_id, rank, endpoint_id);
CREATE INDEX connections_decision ON connections (provider_id, decision, rank, endpoint_id);
CREATE INDEX connections_service ON connections (service_id, decision, rank, endpoint_id);
CREATE INDEX connections_of ON connections (service_id, rank, endpoint_id);
CREATE INDEX connections_state ON connections (service_id, status, decision);
CREATE INDEX connections_status ON connections (provider_id, status, rank, endpoint_id);
CREATE INDEX connections_pair ON connections (provider_id, consumer_id);
CREATE INDEX connections_consumer ON connections (consumer_id, endpoint_id);
CREATE INDEX connections_end ON connections (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX connections_moving ON connections (status) WHERE status IN ('Connecting', 'Pending', 'Disconnecting', 'Deleting');
CREATE INDEX audit_events_resource ON audit_events (account_id, resource_id, seq);
CREATE INDEX audit_events_actor ON audit_events (account_id, actor_id, seq);
CREATE INDEX audit_events_action ON audit_events (account_id, action, seq);
