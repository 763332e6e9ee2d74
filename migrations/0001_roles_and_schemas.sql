-- Database roles and schemas. Neither role can log in; `fulexo migrate` makes the role of DATABASE_URL a member of
-- fulexo_app. Roles belong to the cluster, so another database of the cluster may already have created them.
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

-- In this order: the log, secrets that never enter the log, tables that gate requests, read models, their checkpoints.
create schema log;
create schema vault;
create schema access;
create schema read;
create schema projection;

grant usage on schema log, vault, access, read, projection to fulexo_app;
grant usage on schema log to fulexo_sequencer;
