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

-- Every login may execute the functions of Postgres unless told otherwise. No grant on a table guards an advisory lock:
-- a tenant that takes ours would stop sinks, prices, budgets and migrations. Large objects are room that anybody may
-- fill. Only who owns the functions (a superuser) can close them; they belong to each database by itself.
DO $$
DECLARE
    closed record;
    allowed record;
    remaining text;
BEGIN
    FOR closed IN
        SELECT p.oid, p.oid::regprocedure AS signature, p.proname ~ 'advisory' AS is_lock
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
          AND (p.proname ~ '^pg_(try_)?advisory_'
               OR p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export', 'lo_open', 'lo_put',
                                'lo_truncate', 'lo_truncate64', 'lo_unlink', 'lowrite'))
          AND pg_has_role(current_user, p.proowner, 'USAGE')
    LOOP
        IF closed.is_lock THEN
            FOR allowed IN
                SELECT oid, rolname FROM pg_roles
                WHERE rolname IN ('meterstream_owner', 'meterstream_ingest', current_user)
                   OR oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
            LOOP
                IF NOT EXISTS (SELECT FROM pg_proc p, aclexplode(p.proacl) a
                               WHERE p.oid = closed.oid AND a.grantee = allowed.oid) THEN
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', closed.signature, allowed.rolname);
                END IF;
            END LOOP;
        END IF;
        IF has_function_privilege('public', closed.oid, 'EXECUTE') THEN
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', closed.signature);
        END IF;
    END LOOP;
    SELECT string_agg(DISTINCT p.proname, ', ' ORDER BY p.proname) INTO remaining
    FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace
      AND p.proname IN ('pg_advisory_lock', 'pg_advisory_xact_lock', 'pg_try_advisory_lock', 'lo_create', 'lo_put')
      AND has_function_privilege('public', p.oid, 'EXECUTE');
    IF remaining IS NOT NULL THEN
        RAISE WARNING 'tenants'' logins can hold up writers and fill the disk: any login may execute %', remaining
            USING HINT = 'Let a superuser run `meterstream migrate up` once on this database.';
    END IF;
END
$$;
