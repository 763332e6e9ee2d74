-- The read models that follow the log, each with a checkpoint that moves in the transaction of its rows. `position` is the
-- next one to apply, so every event below it is visible.
create table projection.checkpoint (
    name text not null constraint checkpoint_pkey primary key,
    position bigint not null,
    -- The reason why the projection stopped: it never skips an event that it cannot apply.
    stopped_because text,
    updated_at timestamptz not null default now()
);
insert into projection.checkpoint (name, position)
values ('accounts', 0), ('sessions', 0), ('roles', 0), ('metrics', 0), ('audit', 0);

-- Tables with a history come in pairs (docs/adr/0012). `since` is the position of the event that produced this version of
-- the row. The twin `…_past` holds every superseded version, and `until` is the position of the event that superseded it.
-- Rows are only added to it. The version as of position P has since <= P and, in the past, P < until: there is never more
-- than one.
create table read.account (
    account_id uuid not null,
    since bigint not null,
    registered_at timestamptz not null,
    -- The position at which e-mail address and display name are sealed.
    profile_position bigint not null,
    password_changed_at timestamptz not null,
    last_login_at timestamptz,
    locked_until timestamptz,
    second_factor_locked_until timestamptz,
    recovery_codes integer not null,
    suspended boolean not null,
    password_expired boolean not null,
    second_factor boolean not null,
    email_verified boolean not null,
    erasure_due_at timestamptz,
    erased boolean not null,
    roles text[] not null,
    constraint account_pkey primary key (account_id)
) with (fillfactor = 80);
-- Lists are in the order of ids, and so is each index of a filter. The holders of a role are in read.role_grant.
create index account_suspended on read.account (suspended, account_id);
create index account_second_factor on read.account (second_factor, account_id);
-- Locks end by themselves; this index finds those that have not.
create index account_locks on read.account (greatest(locked_until, second_factor_locked_until))
where greatest(locked_until, second_factor_locked_until) is not null;
create table read.account_past (
    like read.account,
    until bigint not null,
    constraint account_past_pkey primary key (account_id, since)
);

-- Locks of the past, by their end.
create index account_past_locks on read.account_past (greatest(locked_until, second_factor_locked_until), since, until)
where greatest(locked_until, second_factor_locked_until) is not null;

-- The counts as of each event that changed them.
create table read.account_count (
    position bigint not null,
    accounts bigint not null,
    suspended bigint not null,
    second_factor bigint not null,
    constraint account_count_pkey primary key (position)
);

create table read.session (
    session_id uuid not null,
    account_id uuid not null,
    since bigint not null,
    started_at timestamptz not null,
    -- The position at which address, user agent and device are sealed.
    started_position bigint not null,
    last_seen_at timestamptz not null,
    -- The position at which address and user agent of the last refresh are sealed.
    last_seen_position bigint not null,
    idle_expires_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    ended_by text,
    methods text[] not null,
    constraint session_pkey primary key (session_id)
) with (fillfactor = 80);
create index session_account on read.session (account_id, session_id);
-- An event that ends all sessions of an account reads those that have not ended.
create index session_unended on read.session (account_id, session_id) where ended_at is null;
-- Lists of live sessions.
create index session_open on read.session (session_id) where ended_at is null;
-- Live sessions are counted by the minute, and within a minute by start and end.
create index session_start on read.session (started_at);
create index session_end on read.session (greatest(started_at, least(idle_expires_at, expires_at, ended_at)));
create table read.session_past (
    like read.session,
    until bigint not null,
    constraint session_past_pkey primary key (session_id, since)
);

-- The number of sessions that began in a minute or a day (UTC), and that end in it by an event or by time, as far as known.
create table read.session_count (
    unit text not null,
    at timestamptz not null,
    begun bigint not null,
    ended bigint not null,
    constraint session_count_pkey primary key (unit, at)
) with (fillfactor = 50);

-- Roles that administrators defined. A retired role stays and grants nothing.
create table read.role (
    role text not null,
    since bigint not null,
    retired boolean not null,
    permissions text[] not null,
    constraint role_pkey primary key (role)
);
create table read.role_past (
    like read.role,
    until bigint not null,
    constraint role_past_pkey primary key (role, since)
);

-- The holders of each role: granted at position `since`, revoked at `until`.
create table read.role_grant (
    account_id uuid not null,
    role text not null,
    since bigint not null,
    granted_at timestamptz not null,
    granted_by uuid,
    granted_by_kind text not null,
    constraint role_grant_pkey primary key (account_id, role)
);
create index role_grant_role on read.role_grant (role, account_id);
create table read.role_grant_past (
    like read.role_grant,
    until bigint not null,
    constraint role_grant_past_pkey primary key (account_id, role, since)
);
create index role_grant_past_role on read.role_grant_past (role, account_id);

-- The number of a role's holders as of each event that changed it.
create table read.holder_count (
    role text not null,
    position bigint not null,
    holders bigint not null,
    constraint holder_count_pkey primary key (role, position)
);

-- Events by type and minute. A part of a minute is counted from read.audit.
create table read.metric (
    minute timestamptz not null,
    event_type text not null,
    events bigint not null,
    first_position bigint not null,
    last_position bigint not null,
    constraint metric_pkey primary key (minute, event_type)
);

-- The index that auditors search; the events themselves stay in log.event.
create table read.audit (
    position bigint not null constraint audit_pkey primary key,
    event_type text not null,
    category text not null,
    subject_id uuid,
    actor_id uuid,
    correlation_id uuid not null,
    recorded_at timestamptz not null,
    event_id uuid not null
);
create index audit_type on read.audit (event_type, position);
create index audit_category on read.audit (category, position);
create index audit_subject on read.audit (subject_id, position) where subject_id is not null;
create index audit_actor on read.audit (actor_id, position) where actor_id is not null;
create index audit_correlation on read.audit (correlation_id, position);
create index audit_event on read.audit (event_id, position);
create index audit_time on read.audit (recorded_at, position);

grant select, insert, update, delete, truncate on all tables in schema read to fulexo_app;
grant select, insert, update on projection.checkpoint to fulexo_app;
