-- The tables that gate requests. They are written in the transaction of the event, so they are never behind the log.

create table access.account (
    account_id uuid not null constraint account_pkey primary key,
    -- The last event that changed the authority of the account's tokens.
    changed_position bigint not null,
    changed_at timestamptz not null,
    -- True if the account is suspended.
    suspended boolean not null,
    -- Sessions that began before this position have ended, except the kept one, and the cause.
    sessions_from bigint not null,
    except_session uuid,
    sessions_ended_by text,
    -- True if there may be ended sessions that have no event of their own yet.
    ends_due boolean not null,
    -- A second factor presented before this position is no longer valid, except in this session.
    second_factor_from bigint not null,
    second_factor_session uuid,
    -- True if a second factor is enabled: a session that was elevated without it no longer is.
    second_factor_enabled boolean not null,
    -- The time from which on the account is erased, if its owner asked for that.
    erasure_due timestamptz
);
create index account_changes on access.account (changed_at);
create index account_ends_due on access.account (account_id) where ends_due;
create index account_erasure on access.account (erasure_due) where erasure_due is not null;

-- "grant" is a reserved word of SQL.
create table access.role_grant (
    account_id uuid not null,
    role text not null,
    position bigint not null,
    constraint role_grant_pkey primary key (account_id, role)
);

create table access.session (
    session_id uuid not null constraint session_pkey primary key,
    account_id uuid not null,
    started_position bigint not null,
    idle_expires_at timestamptz not null,
    expires_at timestamptz not null,
    -- Sensitive calls are allowed until this time, in addition to the time after the login itself.
    elevated_until timestamptz,
    elevated_position bigint,
    -- The position of the last required step-up, which restored the session.
    restored_position bigint,
    -- The position at which the owner last presented a second factor.
    second_factor_position bigint,
    ended_position bigint,
    ended_at timestamptz
);
create index session_live on access.session (account_id) where ended_at is null;
create index session_elevated on access.session (elevated_until) where elevated_until is not null and ended_at is null;
create index session_expiry on access.session (expires_at);
create index session_ends on access.session (ended_at) where ended_at is not null;

-- The live sessions. This is the only definition.
create view access.live_session as
select s.session_id, s.account_id, s.started_position, s.idle_expires_at, s.expires_at, s.elevated_until,
       s.elevated_position, s.restored_position,
       s.second_factor_position is not null
           and (s.second_factor_position >= coalesce(a.second_factor_from, 0)
                or s.session_id is not distinct from a.second_factor_session) as second_factor
from access.session s left join access.account a on a.account_id = s.account_id
where s.ended_at is null
  and not coalesce(a.suspended, false)
  and (s.started_position >= coalesce(a.sessions_from, 0) or s.session_id is not distinct from a.except_session);

-- Roles that administrators defined. A retired role stays and grants nothing: its name is never reused.
create table access.role (
    role text not null constraint role_pkey primary key,
    permissions text[] not null,
    retired boolean not null,
    position bigint not null,
    changed_at timestamptz not null
);

-- A role can be retired only if no account holds it. A grant depends on the version of the role's stream but does not
-- change it, so a retirement cannot depend on a version. This trigger checks it, under the lock that orders all appends.
create index role_grant_of_few on access.role_grant (role) where role <> 'customer';
create function access.refuse_to_retire_a_held_role() returns trigger language plpgsql as $$
begin
    if exists (select from access.role_grant g where g.role = new.role and g.role <> 'customer') then
        raise check_violation using
            constraint = 'retired_role_is_not_held', message = 'accounts hold the role', schema = 'access', table = 'role';
    end if;
    return new;
end
$$;
create trigger retired_role_is_not_held before insert or update on access.role
for each row when (new.retired) execute function access.refuse_to_retire_a_held_role();

-- The policy in force, if it was ever changed.
create table access.policy (
    only_one boolean not null default true constraint policy_pkey primary key constraint policy_is_one check (only_one),
    policy text not null,
    position bigint not null,
    changed_at timestamptz not null
);

-- The scope of the lockdown; null if it was lifted.
create table access.lockdown (
    only_one boolean not null default true constraint lockdown_pkey primary key constraint lockdown_is_one check (only_one),
    scope text,
    -- The version of its stream: a session begins only if no lockdown was started meanwhile.
    version bigint not null,
    position bigint not null,
    changed_at timestamptz not null
);

create table access.api_key (
    key_id uuid not null constraint api_key_pkey primary key,
    name text not null,
    permissions text[] not null,
    created_by uuid,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    revoked_at timestamptz,
    position bigint not null
);
create index api_key_expiry on access.api_key (expires_at);

grant select, insert, update, delete on all tables in schema access to fulexo_app;
