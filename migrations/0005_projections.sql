-- Read models that follow the log on their own: each with a checkpoint that moves in the transaction of the rows
-- it describes. `position` is the next one to apply, so everything below it is visible.
create table projection.checkpoint (
    name text not null constraint checkpoint_pkey primary key,
    position bigint not null,
    -- Why it stopped, when it stopped: an event that it could not apply is never skipped.
    stopped_because text,
    updated_at timestamptz not null default now()
);
insert into projection.checkpoint (name, position) values ('accounts', 0), ('sessions', 0), ('audit', 0);

create table read.account (
    account_id uuid not null constraint account_pkey primary key,
    registered_at timestamptz not null,
    -- Where e-mail and display name are sealed.
    profile_position bigint not null,
    roles text[] not null,
    password_changed_at timestamptz not null,
    last_login_at timestamptz,
    locked_until timestamptz,
    second_factor_locked_until timestamptz,
    suspended boolean not null,
    password_expired boolean not null,
    second_factor boolean not null,
    recovery_codes integer not null,
    email_verified boolean not null
);
create index account_roles on read.account using gin (roles);
create index account_locks on read.account (locked_until) where locked_until is not null;

create table read.session (
    session_id uuid not null constraint session_pkey primary key,
    account_id uuid not null,
    started_at timestamptz not null,
    -- Where address, user agent and device are sealed.
    started_position bigint not null,
    methods text[] not null,
    last_seen_at timestamptz not null,
    generation integer not null,
    idle_expires_at timestamptz not null,
    expires_at timestamptz not null,
    ended_at timestamptz,
    ended_by text
);
create index session_account on read.session (account_id, session_id);

-- The index that auditors search by; the events themselves stay in log.event.
create table read.audit (
    position bigint not null constraint audit_pkey primary key,
    event_type text not null,
    category text not null,
    subject_id uuid,
    actor_id uuid,
    correlation_id uuid not null,
    recorded_at timestamptz not null
);
create index audit_type on read.audit (event_type, position);
create index audit_category on read.audit (category, position);
create index audit_subject on read.audit (subject_id, position) where subject_id is not null;
create index audit_actor on read.audit (actor_id, position) where actor_id is not null;
create index audit_correlation on read.audit (correlation_id, position);
create index audit_time on read.audit (recorded_at, position);

grant select, insert, update, delete, truncate on all tables in schema read to fulexo_app;
grant select, insert, update on projection.checkpoint to fulexo_app;
