-- Read models have versions: a new build of one is made beside the live one, compared with it, and takes its place in one
-- transaction (docs/adr/0011). The application owns no table; whatever moves tables is done by the functions here, to
-- the tables of known projections alone.
--
--   read           what readers see
--   read_next      builds under way
--   read_previous  what readers saw before the last switch, kept for a rollback
--   read_aside     empty, but within a rollback: tables cannot change places without a third one
create schema read_next;
create schema read_previous;
create schema read_aside;
grant usage on schema read_next, read_previous to fulexo_app;

-- Access exclusive on projection.checkpoint, for a moment. `owner` is the node that applied the last batch.
alter table projection.checkpoint
    add column version integer not null default 1,
    add column owner text,
    add constraint checkpoint_version_counts check (version >= 1);

-- Which tables a projection has; fulexo_projections::projection::Projection::tables says the same. To one that is only ever
-- added to, a build writes without any index: keys in no order cost more one by one than all of them sorted at its end.
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

-- Builds under way or interrupted. `position` moves in the transaction of the rows it describes.
create table projection.build (
    name text not null constraint build_pkey primary key,
    version integer not null,
    position bigint not null default 0,
    -- A build is resumed by the very program that began it, so that no view is half of one and half of another.
    program text not null,
    started_at timestamptz not null default now(),
    -- The position at which it was compared with the live one, how many rows differed, and which, for example.
    compared_at bigint,
    differing bigint not null default 0,
    examples text[] not null default '{}',
    indexed boolean not null default false
);

-- What a rollback brings back.
create table projection.previous (
    name text not null constraint previous_pkey primary key,
    version integer not null,
    position bigint not null,
    replaced_at timestamptz not null default now()
);
grant select on projection.relation to fulexo_app;
grant select, update (position, compared_at, differing, examples) on projection.build to fulexo_app;
grant select, update (position) on projection.previous to fulexo_app;

-- The tables of a projection, or an error.
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

-- Begins a build: empty tables like the live ones, with the constraints that writing needs and no index beside them.
-- `like … including indexes` would give constraints and indexes names of its own; queries name them.
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

-- An index of a live table as it is defined, for its namesake in another schema.
create function projection.index_in(place text, wanted oid, relation text) returns text language sql stable
set search_path = pg_catalog, pg_temp as $$
    select replace(pg_get_indexdef(wanted), format(' ON read.%I USING ', relation), format(' ON %I.%I USING ', place, relation))
$$;

-- What makes the indexes that a live table has and its build has not: constraints first, which make some of them. Where
-- only those are wanted that writing needs, unique ones, and the one by which sessions of an account are ended.
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

-- Gives a build the indexes that the live tables have, and statistics. Repeated, it does what is missing.
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

-- How the tables of a build differ from the live ones, as the transaction sees both: meaningful when it sees both at
-- one position. The sum over hashes of all rows, of 64 bits each and under a seed that nobody knows before, says that both
-- are the same at a fraction of what it costs to find out where they are not.
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
            -- A row that is there twice has its pair twice.
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

-- Puts a build in the place of the live version, which is kept for a rollback; the one kept before is gone. Never
-- takes readers back: a build that has not got as far as the live version is refused. Access exclusive on the
-- projection's tables: the caller bounds the wait by lock_timeout.
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

-- Lets the live version and the one kept before it change places, under the same conditions.
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
