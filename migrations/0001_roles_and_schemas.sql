-- Who may do what. Two roles that nobody logs in as; `fulexo migrate` makes the role of DATABASE_URL a member
-- of fulexo_app. Roles belong to the cluster, so another database of it may have made them already.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['fulexo_app', 'fulexo_sequencer'] loop
        begin
            execute format('create role %I nologin', wanted);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
end
$$;

revoke all on schema public from public;

-- The log, what must never be in the log, what gates a request, what readers see.
create schema log;
create schema vault;
create schema access;
create schema read;
create schema projection;

grant usage on schema log, vault, access, read, projection to fulexo_app;
grant usage on schema log to fulexo_sequencer;
