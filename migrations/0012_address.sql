-- Events found by an address, by who may open what is sealed alongside them: keyed digests of addresses, in the sealed rows, so
-- that they are deleted with them. Rows from before have none, and are not found.
--
-- Locks: log.sealed, which nobody reads or writes until its indexes are built.

alter table log.sealed
    -- HMAC-SHA-256 under a key that is derived from the service key, truncated.
    add column ip_digest bytea constraint sealed_ip_digest_length check (octet_length(ip_digest) = 16),
    add column email_digest bytea constraint sealed_email_digest_length check (octet_length(email_digest) = 16);
-- Each orders the positions of a digest. An event has an address once: a search counts it once.
create unique index sealed_ip on log.sealed (ip_digest, position) where ip_digest is not null;
create unique index sealed_email on log.sealed (email_digest, position) where email_digest is not null;

-- The same, with the digests. Nodes of the version before leave them out.
drop function log.try_append(
    text[], uuid[], bigint[], timestamptz, timestamptz, text[], uuid[], bigint[], bytea[], bytea[], integer[], smallint[],
    uuid[], date[], bytea[], bytea[], text[], bytea[], uuid[], bytea[], bytea[], text[], uuid[]);
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
    sealed_ip_digests bytea[] default null, sealed_email_digests bytea[] default null
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
        insert into log.sealed (position, ordinal, subject_id, period, nonce, ciphertext, ip_digest, email_digest)
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

revoke all on function log.try_append from public;
grant execute on function log.try_append to fulexo_app;
-- The owner is a member of the role only while it transfers the function.
grant fulexo_sequencer to current_user;
grant create on schema log to fulexo_sequencer;
alter function log.try_append owner to fulexo_sequencer;
revoke create on schema log from fulexo_sequencer;
revoke fulexo_sequencer from current_user;
