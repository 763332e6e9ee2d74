-- Read models have versions. A new build is made alongside the live version, compared with it, and replaces it in one
-- transaction (docs/adr/0011). The application owns no table: the functions here move tables, and only those of known
-- projections.
--
--   read           the live versions
--   read_next      builds in progress
--   read_previous  the versions live before the last switch, kept for a rollback
--   read_aside     empty except within a rollback: exchanging tables takes a third schema
create schema read_next;
create schema read_previous;
create schema read_aside;
grant usage on schema read_next, read_previous to fulexo_app;

-- Locks projection.checkpoint briefly (access exclusive). `owner` is the node that applied the last batch.
alter table projection.checkpoint
    add column version integer not null default 1,
    add column owner text,
    add constraint checkpoint_version_counts check (version >= 1);

-- The tables of each projection, as in Projection::tables of fulexo_projections. A build writes a table that is only added
-- to without any index: inserting keys in random order costs more than sorting all of them at the end.
create table projection.relation (
    name text not null constraint relation_pkey primary key,
    projection text not null,
    only_added_to boolean not null
);
insert into projection.relation (projection, name, only_added_to) values
    ('accounts', 'account', false),
    ('accounts', 'account_past', true),
    ('accounts', 'account_count', false),
    ('sessions', 'session', false),
    ('sessions', 'session_past', true),
    ('sessions', 'session_count', false),
    ('roles', 'role', false),
    ('roles', 'role_past', true),
    ('roles', 'role_grant', false),
    ('roles', 'role_grant_past', true),
    ('roles', 'holder_count', false),
    ('metrics', 'metric', false),
    ('audit', 'audit', true);

-- Builds, running or interrupted. `position` moves in the transaction of the rows.
create table projection.build (
    name text not null constraint build_pkey primary key,
    version integer not null,
    position bigint not null default 0,
    -- Only the program that began a build resumes it, so that no version is the work of two programs.
    program text not null,
    started_at timestamptz not null default now(),
    -- The position at which it was compared with the live version, the number of differing rows, and a few of their keys.
    compared_at bigint,
    differing bigint not null default 0,
    examples text[] not null default '{}',
    indexed boolean not null default false
);

-- The versions that a rollback restores.
create table projection.previous (
    name text not null constraint previous_pkey primary key,
    version integer not null,
    position bigint not null,
    replaced_at timestamptz not null default now()
);
grant select on projection.relation to fulexo_app;
grant select, update (position, compared_at, differing, examples) on projection.build to fulexo_app;
grant select, update (position) on projection.previous to fulexo_app;

-- Returns the tables of a projection, or raises an error.
create function projection.relations(wanted text) returns setof text language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
    return query select r.name from projection.relation r where r.projection = wanted order by r.name;
    if not found then
        raise invalid_parameter_value using message = format('there is no projection %L', wanted);
    end if;
end
$$;

-- Drops a build, finished or not.
create function projection.discard_build(wanted text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
begin
    for relation in select projection.relations(wanted) loop
        execute format('drop table if exists read_next.%I', relation);
    end loop;
    delete from projection.build b where b.name = wanted;
end
$$;

-- Begins a build: empty tables like the live ones, with the constraints that writing needs and without other indexes.
-- Queries name constraints, and `like … including indexes` would give them new names.
create function projection.begin_build(wanted text, begun_by text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
    live regclass;
    definition text;
begin
    for relation in select projection.relations(wanted) loop
        live := format('read.%I', relation)::regclass;
        execute format('create table read_next.%I (like %s including all excluding indexes)', relation, live);
        for definition in
            select format('alter table read_next.%I set (%s)', relation, array_to_string(c.reloptions, ', '))
            from pg_class c where c.oid = live and c.reloptions is not null
            union all
            select d.definition from projection.missing_indexes(relation, true) d
            where not (select r.only_added_to from projection.relation r where r.name = relation)
        loop
            execute definition;
        end loop;
        execute format('grant select, insert, update, delete, truncate on read_next.%I to fulexo_app', relation);
    end loop;
    insert into projection.build (name, version, program)
    select wanted, greatest(c.version, p.version) + 1, begun_by
    from projection.checkpoint c left join projection.previous p on p.name = c.name
    where c.name = wanted;
end
$$;

-- The definition of a live table's index, for the same index in another schema.
create function projection.index_in(place text, wanted oid, relation text) returns text language sql stable
set search_path = pg_catalog, pg_temp as $$
    select replace(pg_get_indexdef(wanted), format(' ON read.%I USING ', relation), format(' ON %I.%I USING ', place, relation))
$$;

-- The statements that create the indexes which a build lacks: first the constraints, which create some of them. On request
-- only those that writing needs: the unique ones, and the one for ending the sessions of an account.
create function projection.missing_indexes(relation text, only_needed boolean) returns table (definition text)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when k.oid is null
        then projection.index_in('read_next', i.indexrelid, relation)
        else format('alter table read_next.%I add constraint %I %s', relation, k.conname, pg_get_constraintdef(k.oid))
    end
    from pg_index i
    join pg_class c on c.oid = i.indexrelid
    left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid
    where i.indrelid = format('read.%I', relation)::regclass
      and (i.indisunique or c.relname = 'session_unended' or not only_needed)
      and to_regclass(format('read_next.%I', c.relname)) is null
    order by k.oid is null, c.relname
$$;

-- Gives a build the indexes of the live tables, and statistics. If repeated, it does what is missing.
create function projection.finish_build(wanted text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
    definition text;
begin
    for relation in select projection.relations(wanted) loop
        for definition in select d.definition from projection.missing_indexes(relation, false) d loop
            execute definition;
        end loop;
        execute format('analyze read_next.%I', relation);
    end loop;
    update projection.build b set indexed = true where b.name = wanted;
end
$$;

-- The differences between the tables of a build and the live ones, as this transaction sees both; it must see both at one
-- position. Equal sums over 64-bit hashes of all rows, under a fresh random seed, show that two tables are the same, at a
-- fraction of the cost of finding the rows that differ.
create function projection.compare_build(wanted text)
returns table (relation text, live bigint, built bigint, differing bigint, examples text[]) language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
    seed constant bigint := hashtextextended(gen_random_uuid()::text, 0);
    sum constant text := 'select count(*), sum(hash_record_extended(t, $1)) from %I.%I t';
    differ constant text := '(l.ctid is null or b.ctid is null or l *<> b)';
    live_sum numeric;
    built_sum numeric;
    keys text;
    pairs text;
begin
    for relation in select projection.relations(wanted) loop
        execute format(sum, 'read', relation) into live, live_sum using seed;
        execute format(sum, 'read_next', relation) into built, built_sum using seed;
        differing := 0;
        examples := '{}';
        if live <> built or live_sum is distinct from built_sum then
            select string_agg(quote_ident(a.attname), ', ' order by k.n) into strict keys
            from pg_index i cross join unnest(i.indkey::smallint[]) with ordinality k (number, n)
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
            where i.indrelid = format('read.%I', relation)::regclass and i.indisprimary;
            pairs := format('from read.%1$I l full join read_next.%1$I b using (%2$s)', relation, keys);
            -- A row that exists twice has its pair twice.
            execute format('select greatest(count(*) filter (where %s), %s) %s', differ, abs(built - live), pairs)
            into differing;
            execute format(
                'select coalesce(array_agg(key), ''{}'')
                 from (select concat_ws('' '', %1$s) as key %2$s where %3$s order by %1$s limit 3) e',
                keys, pairs, differ)
            into examples;
        end if;
        return next;
    end loop;
end
$$;

-- Replaces the live version with a build. The live version is kept for a rollback, and the one kept before is dropped.
-- Readers never go back: a build that has not reached the live version's position is refused. Takes access exclusive locks
-- on the projection's tables: the caller bounds the wait with lock_timeout.
create function projection.switch_build(wanted text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
    live projection.checkpoint;
    build projection.build;
begin
    select * into live from projection.checkpoint c where c.name = wanted for update;
    select * into build from projection.build b where b.name = wanted for update;
    if build.indexed is not true or build.position < live.position then
        raise object_not_in_prerequisite_state using message = format('there is no finished build of %L', wanted);
    end if;
    for relation in select projection.relations(wanted) loop
        execute format('drop table if exists read_previous.%I', relation);
        execute format('alter table read.%I set schema read_previous', relation);
        execute format('alter table read_next.%I set schema read', relation);
    end loop;
    delete from projection.previous p where p.name = wanted;
    insert into projection.previous (name, version, position) values (wanted, live.version, live.position);
    update projection.checkpoint c
    set version = build.version, position = build.position, stopped_because = null, updated_at = now()
    where c.name = wanted;
    delete from projection.build b where b.name = wanted;
end
$$;

-- Exchanges the live version and the previous one, under the same conditions.
create function projection.switch_back(wanted text) returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
    live projection.checkpoint;
    previous projection.previous;
begin
    select * into live from projection.checkpoint c where c.name = wanted for update;
    select * into previous from projection.previous p where p.name = wanted for update;
    if previous.position >= live.position is not true then
        raise object_not_in_prerequisite_state
            using message = format('there is no previous version of %L that has got as far as the live one', wanted);
    end if;
    for relation in select projection.relations(wanted) loop
        execute format('alter table read.%I set schema read_aside', relation);
        execute format('alter table read_previous.%I set schema read', relation);
        execute format('alter table read_aside.%I set schema read_previous', relation);
    end loop;
    update projection.checkpoint c
    set version = previous.version, position = previous.position, stopped_because = null, updated_at = now()
    where c.name = wanted;
    update projection.previous p
    set version = live.version, position = live.position, replaced_at = now() where p.name = wanted;
end
$$;

revoke all on function
    projection.relations, projection.index_in, projection.missing_indexes, projection.begin_build,
    projection.discard_build, projection.finish_build, projection.compare_build, projection.switch_build, projection.switch_back
from public;
grant execute on function
    projection.relations, projection.begin_build, projection.discard_build, projection.finish_build,
    projection.compare_build, projection.switch_build, projection.switch_back
to fulexo_app;
