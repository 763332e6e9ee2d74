-- The event log: one gapless position, appended under one lock, never changed.

-- The head of the log. `position` is the next one to assign, and therefore the number of events. `epoch` changes when a
-- backup is restored, so that copies of the log can tell one history from another.
create table log.head (
    id smallint not null constraint head_pkey primary key constraint head_is_one_row check (id = 1),
    position bigint not null constraint head_position_is_a_count check (position >= 0),
    recorded_at timestamptz not null,
    epoch uuid not null
);
insert into log.head values (1, 0, 'epoch', gen_random_uuid());

-- The leaf is the event. The columns stream_id, category and version repeat parts of it to find a stream, and readers of
-- the log compare them with the leaf. The audit read model indexes what auditors search, off the path of the append.
create table log.event (
    position bigint not null constraint event_pkey primary key,
    stream_id uuid not null,
    category text not null,
    version bigint not null,
    leaf bytea not null,
    leaf_hash bytea not null,
    -- RFC 6962, section 2.1. An entry of a tlog-tiles bundle holds at most 65,535 bytes.
    constraint event_leaf_hash check (leaf_hash = sha256('\x00'::bytea || leaf)),
    constraint event_leaf_length check (octet_length(leaf) <= 65535)
) partition by range (position);
-- Compression would cost time and save little on leaves of a few hundred bytes.
alter table log.event alter column leaf set storage external;
create index event_stream on log.event (stream_id, category, version);

-- Personal data, sealed under a key of the person (subject_id) or, if the person is unknown, of the calendar month
-- (period). These are the only rows of the log that erasure may delete.
create table log.sealed (
    position bigint not null,
    ordinal smallint not null,
    subject_id uuid,
    period date,
    nonce bytea not null constraint sealed_nonce_length check (octet_length(nonce) = 12),
    ciphertext bytea not null,
    -- What events are found by, for those who may unseal them: HMAC-SHA-256 of an address under a key that is derived from the
    -- service key, truncated. Deleted with the row.
    ip_digest bytea constraint sealed_ip_digest_length check (octet_length(ip_digest) = 16),
    email_digest bytea constraint sealed_email_digest_length check (octet_length(email_digest) = 16),
    constraint sealed_pkey primary key (position, ordinal),
    constraint sealed_has_one_key check ((subject_id is null) <> (period is null))
);
create index sealed_subject on log.sealed (subject_id) where subject_id is not null;
-- Each orders the positions of a digest. An event has an address once: a search counts it once.
create unique index sealed_ip on log.sealed (ip_digest, position) where ip_digest is not null;
create unique index sealed_email on log.sealed (email_digest, position) where email_digest is not null;

-- The authoritative versions of streams.
create table log.stream (
    stream_id uuid not null,
    category text not null,
    version bigint not null,
    last_position bigint not null,
    constraint stream_pkey primary key (stream_id, category)
) with (fillfactor = 70);

-- The state of a stream at one of its events, so that earlier events need not be read. It is derived from events, in the
-- format of one build, and authoritative on nothing. It is valid while the log has that event, by its hash, at that
-- version.
create table log.snapshot (
    stream_id uuid not null,
    category text not null,
    format smallint not null,
    version bigint not null,
    leaf_hash bytea not null,
    state text not null,
    constraint snapshot_pkey primary key (stream_id, category, format)
) with (fillfactor = 70);

-- The outcomes of commands with an idempotency key. Results contain ids, never personal data or secrets.
create table log.command (
    command_id bytea not null constraint command_pkey primary key,
    request_hash bytea not null,
    result text not null,
    recorded_at timestamptz not null,
    -- The account that acted, whose erasure deletes the row.
    account_id uuid
);
create index command_account on log.command (account_id) where account_id is not null;
create index command_age on log.command (recorded_at);

-- Values that only one stream may hold, by their HMAC.
create table log.unique_key (
    scope text not null,
    key_hash bytea not null,
    stream_id uuid not null,
    constraint unique_key_pkey primary key (scope, key_hash)
);
-- Erasure releases what a stream holds, in the transaction of an append.
create index unique_key_holder on log.unique_key (stream_id);

-- Append-only, the second guard: everyone but the append function is refused, the owner included. ALWAYS, so that
-- session_replication_role does not disable the trigger. Statement triggers are not cloned to partitions, and a statement
-- on a partition does not fire those of its parent: each partition gets its own.
create function log.refuse_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' and current_user = 'fulexo_sequencer' then
        return null;
    end if;
    raise insufficient_privilege using
        message = format('the log is append-only: %s on %I.%I is refused', tg_op, tg_table_schema, tg_table_name),
        hint = 'events are appended by log.try_append alone and are never changed';
end
$$;

create function log.guard_table(guarded regclass) returns void language plpgsql as $$
begin
    execute format(
        'create trigger append_only before insert or update or delete or truncate on %s
         for each statement execute function log.refuse_change()', guarded);
    execute format('alter table %s enable always trigger append_only', guarded);
end
$$;
select log.guard_table('log.event');

-- Ensures that the current partition and the next one exist. The service calls it long before the next one is needed.
-- Attaching a partition takes a share-update-exclusive lock on log.event.
create function log.extend() returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    span constant bigint := 10000000;
    current_number bigint;
    made integer := 0;
begin
    -- Two nodes may start at once.
    perform pg_advisory_xact_lock(hashtextextended('log.extend', 0));
    select h.position / span into current_number from log.head h;
    for number in current_number .. current_number + 1 loop
        if to_regclass(format('log.event_%s', number)) is null then
            execute format('create table log.event_%s (like log.event including defaults including constraints including storage)', number);
            execute format(
                'alter table log.event attach partition log.event_%s for values from (%s) to (%s)',
                number, number * span, (number + 1) * span);
            -- Insert-only tables are vacuumed after a share of their size, which grows without bound: use fixed steps.
            execute format(
                'alter table log.event_%s set (autovacuum_vacuum_insert_scale_factor = 0,
                 autovacuum_vacuum_insert_threshold = 100000, autovacuum_analyze_scale_factor = 0,
                 autovacuum_analyze_threshold = 100000, autovacuum_freeze_min_age = 0)', number);
            perform log.guard_table(format('log.event_%s', number)::regclass);
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;
select log.extend();

-- Takes the lock that orders all appends, then reads the state on which the batch depends. Each statement of a volatile
-- function sees everything committed before it began, so nothing read here can change until the transaction ends. Returns
-- arrays in the order of the arrays given, with null for missing entries.
create function log.lock(
    wanted_categories text[], wanted_streams uuid[], wanted_commands bytea[], wanted_scopes text[], wanted_keys bytea[],
    out head_recorded_at timestamptz,
    out versions bigint[], out command_hashes bytea[], out command_results text[], out key_holders uuid[]
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    select h.recorded_at into strict head_recorded_at from log.head h where h.id = 1 for update;

    versions := array(
        select coalesce(s.version, 0)
        from unnest(wanted_categories, wanted_streams) with ordinality w (category, stream_id, n)
        left join log.stream s on s.stream_id = w.stream_id and s.category = w.category
        order by w.n);
    if cardinality(wanted_commands) > 0 then
        select array_agg(c.request_hash order by w.n), array_agg(c.result order by w.n)
        into command_hashes, command_results
        from unnest(wanted_commands) with ordinality w (command_id, n)
        left join log.command c on c.command_id = w.command_id;
    end if;
    if cardinality(wanted_keys) > 0 then
        key_holders := array(
            select k.stream_id
            from unnest(wanted_scopes, wanted_keys) with ordinality w (scope, key_hash, n)
            left join log.unique_key k on k.scope = w.scope and k.key_hash = w.key_hash
            order by w.n);
    end if;
end
$$;

-- Locks, checks and appends a batch in one round trip. The caller passes the expected versions of the streams, from memory
-- or from log.lock in the same transaction. If one is wrong, nothing is written and the result is null. Otherwise the
-- result is the position of the first event. The other data of the batch arrives here too; `sealed_events` are indexes into
-- `leaves`, from 0.
create function log.try_append(
    foretold_categories text[], foretold_streams uuid[], foretold_versions bigint[],
    first_time timestamptz, last_time timestamptz,
    categories text[], streams uuid[], versions bigint[], leaves bytea[], leaf_hashes bytea[],
    sealed_events integer[], sealed_ordinals smallint[], sealed_subjects uuid[], sealed_periods date[],
    sealed_nonces bytea[], sealed_ciphertexts bytea[],
    claimed_scopes text[], claimed_keys bytea[], claimed_by uuid[],
    new_command_ids bytea[], command_hashes bytea[], command_results text[], command_accounts uuid[],
    sealed_ip_digests bytea[], sealed_email_digests bytea[]
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    first_position bigint;
    head_time timestamptz;
begin
    select h.position, h.recorded_at into strict first_position, head_time from log.head h where h.id = 1 for update;
    if first_time < head_time
        -- One subquery per stream, so that each is found by its key however large the table is.
        or exists (
            select from unnest(foretold_categories, foretold_streams, foretold_versions) w (category, stream_id, version)
            where w.version <> coalesce(
                (select s.version from log.stream s where s.stream_id = w.stream_id and s.category = w.category), 0))
        or (cardinality(new_command_ids) > 0 and exists (
            select from log.command c where c.command_id = any (new_command_ids)))
        or (cardinality(claimed_keys) > 0 and exists (
            select from unnest(claimed_scopes, claimed_keys) w (scope, key_hash)
            join log.unique_key k on k.scope = w.scope and k.key_hash = w.key_hash))
    then
        return null;
    end if;

    if cardinality(leaves) > 0 then
        -- No event has a time before that of an earlier one, so one far ahead would set the time of all later ones. If the
        -- log is already that far ahead, because the clock here was set back, time advances by the least that distinguishes
        -- events.
        if last_time > greatest(
            clock_timestamp() + interval '1 hour', head_time + cardinality(leaves) * interval '1 microsecond')
        then
            raise check_violation using
                constraint = 'head_is_not_ahead', message = 'the time of an event is more than an hour ahead',
                hint = 'compare the clocks of the node and of the database';
        end if;
        -- Versions increase by one per event from the current version of the stream: any other batch is a bug.
        if exists (
            select from (
                select stream_id, category, version, row_number() over (partition by stream_id, category order by n) as nth
                from unnest(streams, categories, versions) with ordinality u (stream_id, category, version, n)
            ) e
            left join unnest(foretold_streams, foretold_categories, foretold_versions) w (stream_id, category, version)
                using (stream_id, category)
            where e.version is distinct from w.version + e.nth)
        then
            raise integrity_constraint_violation using message = 'a stream of this append does not continue where it ended';
        end if;
        insert into log.event
        select first_position + u.n - 1, u.stream_id, u.category, u.version, u.leaf, u.leaf_hash
        from unnest(streams, categories, versions, leaves, leaf_hashes)
            with ordinality u (stream_id, category, version, leaf, leaf_hash, n);

        insert into log.stream as s (stream_id, category, version, last_position)
        select stream_id, category, max(version), max(first_position + n - 1)
        from unnest(streams, categories, versions) with ordinality u (stream_id, category, version, n)
        group by stream_id, category
        on conflict on constraint stream_pkey do update
        set version = excluded.version, last_position = excluded.last_position;

        update log.head set position = first_position + cardinality(leaves), recorded_at = greatest(last_time, head_time)
        where id = 1;
    end if;

    if cardinality(sealed_events) > 0 then
        insert into log.sealed
        select first_position + event, ordinal, subject_id, period, nonce, ciphertext, ip_digest, email_digest
        from unnest(sealed_events, sealed_ordinals, sealed_subjects, sealed_periods, sealed_nonces, sealed_ciphertexts,
                    sealed_ip_digests, sealed_email_digests)
            u (event, ordinal, subject_id, period, nonce, ciphertext, ip_digest, email_digest);
    end if;
    if cardinality(claimed_keys) > 0 then
        insert into log.unique_key select * from unnest(claimed_scopes, claimed_keys, claimed_by);
    end if;
    if cardinality(new_command_ids) > 0 then
        insert into log.command
        select command_id, request_hash, result, now(), account_id
        from unnest(new_command_ids, command_hashes, command_results, command_accounts)
            u (command_id, request_hash, result, account_id);
    end if;
    return first_position;
end
$$;

-- Stores a snapshot of an event that is in the log. Nobody waits for the disk: a lost snapshot is created again.
create function log.keep_snapshot(
    of_stream uuid, of_category text, in_format smallint, at_version bigint, at_leaf_hash bytea, as_state text
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into log.snapshot (stream_id, category, format, version, leaf_hash, state)
    select e.stream_id, e.category, in_format, e.version, e.leaf_hash, as_state from log.event e
    where e.stream_id = of_stream and e.category = of_category and e.version = at_version and e.leaf_hash = at_leaf_hash
    on conflict on constraint snapshot_pkey do update
    set version = excluded.version, leaf_hash = excluded.leaf_hash, state = excluded.state;
end
$$;

-- Releases the values that an erased account holds, and returns their number. Nobody else's address is ever free.
create function log.release_keys(holder uuid) returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    released bigint;
begin
    -- The event is one of the last of its stream: this is its own transaction.
    if not exists (
        select from (
            select leaf from log.event where stream_id = holder and category = 'account' order by version desc limit 8) e
        where convert_from(leaf, 'UTF8')::json ->> 'type' = 'account.erased')
    then
        raise insufficient_privilege using message = format('the account %s was not erased', holder);
    end if;
    delete from log.unique_key where stream_id = holder;
    get diagnostics released = row_count;
    return released;
end
$$;

-- Append-only, the first guard: privileges. The application may read, call the functions, and delete what erasure and
-- retention delete. Only the sequencer may insert, and it is neither the application nor the owner.
grant select on log.head, log.event, log.sealed, log.stream, log.snapshot, log.command, log.unique_key to fulexo_app;
grant delete on log.sealed, log.command to fulexo_app;
grant select, update on log.head to fulexo_sequencer;
grant select, insert on log.event, log.sealed, log.command, log.unique_key to fulexo_sequencer;
grant delete on log.unique_key to fulexo_sequencer;
grant select, insert, update on log.stream, log.snapshot to fulexo_sequencer;

revoke all on function log.lock, log.try_append, log.keep_snapshot, log.release_keys, log.extend, log.guard_table, log.refuse_change from public;
grant execute on function log.extend to fulexo_app;
grant execute on function log.lock, log.try_append, log.keep_snapshot, log.release_keys to fulexo_app;
-- The owner is a member of the role only while it transfers the functions.
grant fulexo_sequencer to current_user;
grant create on schema log to fulexo_sequencer;
alter function log.lock owner to fulexo_sequencer;
alter function log.try_append owner to fulexo_sequencer;
alter function log.keep_snapshot owner to fulexo_sequencer;
alter function log.release_keys owner to fulexo_sequencer;
revoke create on schema log from fulexo_sequencer;
revoke fulexo_sequencer from current_user;
