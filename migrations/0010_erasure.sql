-- The erasures of persons: what was destroyed, and what is left to do. A row remains for good: after the restore of a backup
-- it says who has to be erased again.
create table vault.erasure (
    account_id uuid not null constraint erasure_pkey primary key,
    erased_at timestamptz not null,
    -- The wrapping key of the destroyed data key; null if there was no data key.
    kek_id text,
    addresses bigint not null,
    verifiers bigint not null,
    recovery_codes bigint not null,
    refresh_roots bigint not null,
    devices bigint not null,
    attempts bigint not null,
    mails bigint not null,
    mail_tokens bigint not null,
    outcomes bigint not null,
    -- The rows of log.sealed that are deleted so far.
    sealed bigint not null default 0,
    -- All rows of log.sealed are deleted.
    purged_at timestamptz,
    -- The table of keys was written anew, without the wrapped key.
    rewritten_at timestamptz,
    -- The write-ahead log was switched to another segment; false if the server allows that to others only.
    log_switched boolean,
    completed_at timestamptz
);
create index erasure_open on vault.erasure (erased_at) where completed_at is null;
-- What commands in flight still wrote is deleted for some time.
create index erasure_completed on vault.erasure (completed_at) where completed_at is not null;
grant select, insert, update on vault.erasure to fulexo_app;

-- The planner's statistics hold values of columns, and their own table is not written anew.
alter table vault.subject_key alter column wrapped set statistics 0;

-- Writes the table of keys anew: VACUUM frees the space of a destroyed key, but leaves its bytes in the file. Returns false if
-- the table is not free at once, and is left as it is: whoever waits for it holds up every login behind. Also if a transaction
-- began before an erasure and still runs: the new file then has the destroyed key, too, as that transaction may read it.
create function vault.rewrite_keys() returns boolean language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
begin
    cluster vault.subject_key using subject_key_pkey;
    -- CLUSTER drops what was deleted before the oldest transaction that runs, and records that one as relfrozenxid.
    return not exists (
        select from vault.erasure e
        join vault.subject_key k on k.subject_id = e.account_id
        join pg_class c on c.oid = k.tableoid
        where e.purged_at is not null and e.rewritten_at is null and age(k.xmin) <= age(c.relfrozenxid));
exception when lock_not_available then
    return false;
end
$$;

-- Refreshes the planner's statistics of the tables from which erasures delete: they hold values of columns.
create function vault.refresh_statistics() returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    analyze vault.subject_key, vault.credential, vault.password_history, vault.recovery_code, vault.refresh_root,
            vault.known_device, vault.attempt, vault.mail, vault.mail_token, log.unique_key, log.command, log.sealed;
end
$$;

-- Begins another segment of the write-ahead log and writes a checkpoint, so that the server can recycle the segments before.
-- Returns false if the owner of the tables may not.
create function vault.switch_log() returns boolean language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_switch_wal();
    checkpoint;
    return true;
exception when insufficient_privilege then
    return false;
end
$$;

revoke all on function vault.rewrite_keys, vault.refresh_statistics, vault.switch_log from public;
grant execute on function vault.rewrite_keys, vault.refresh_statistics, vault.switch_log to fulexo_app;
