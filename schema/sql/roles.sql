-- The roles and the schema that every migration relies on. Idempotent; run by an administrator before the
-- migrations. Roles belong to the whole server: several databases may share them.
-- Passwords are not here: deploy/database.py sets them.

DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('meterstream_owner', 'NOLOGIN'),
            -- COPY is refused to a role under row security, hence BYPASSRLS; its grants are the limit.
            ('meterstream_ingest', 'LOGIN BYPASSRLS'),
            ('meterstream_reader', 'LOGIN'),
            ('meterstream_tenant', 'NOLOGIN')
        ) AS roles (name, attributes)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.attributes);
                IF wanted.name = 'meterstream_ingest' THEN
                    -- A sink that is stopped in mid-transaction holds its offset rows: its successor must not wait long.
                    ALTER ROLE meterstream_ingest SET idle_in_transaction_session_timeout = '5s';
                    ALTER ROLE meterstream_ingest SET lock_timeout = '5s';
                    ALTER ROLE meterstream_ingest SET statement_timeout = '60s';
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of this server is being prepared at the same time
            END;
        END IF;
    END LOOP;
    IF NOT pg_has_role(current_user, 'meterstream_owner', 'MEMBER') THEN
        EXECUTE format('GRANT meterstream_owner TO %I', current_user);
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO meterstream_ingest, meterstream_reader, meterstream_tenant',
                   current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO meterstream_ingest', current_database());
END
$$;

CREATE SCHEMA IF NOT EXISTS meter AUTHORIZATION meterstream_owner;
REVOKE ALL ON SCHEMA meter FROM PUBLIC;
