-- Takes back 0008_people.sql. The role belongs to the whole server and stays.
DROP FUNCTION lookup_session(bytea);
DROP TABLE sessions, auth_events;
DROP POLICY people ON organizations;
DROP POLICY people ON users;
DROP POLICY people ON memberships;
DROP POLICY lookup ON memberships;
REVOKE SELECT ON memberships FROM postroom_lookup;
REVOKE ALL ON organizations, users, memberships FROM postroom_people;
