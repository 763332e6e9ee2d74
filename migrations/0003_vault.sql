-- Secrets that must never enter the log. Each is sealed with AES-256-GCM or stored as a keyed digest; the keys come from
-- the environment.

-- Keys that the service generates once and stores wrapped, so that ENCRYPTION_KEY can be rotated without changing the data
-- they protect.
create table vault.service_key (
    purpose text not null constraint service_key_pkey primary key,
    wrapped bytea not null,
    kek_id text not null
);

-- One data key per person. Destroying it, together with the sealed rows, erases the person.
create table vault.subject_key (
    subject_id uuid not null constraint subject_key_pkey primary key,
    wrapped bytea,
    kek_id text not null,
    shredded_at timestamptz,
    constraint subject_key_is_there_or_shredded check ((wrapped is null) = (shredded_at is not null))
);

-- One data key per calendar month, for network data of unknown persons.
create table vault.period_key (
    period date not null constraint period_key_pkey primary key,
    wrapped bytea not null,
    kek_id text not null
);

-- The verifiers of each factor, sealed under the person's key: the password's verifier, the seed of the second factor, and
-- the seed of one that is being set up. A seed also has the last time step (RFC 6238) whose code was accepted: a code is
-- valid once, and no earlier code is valid.
create table vault.credential (
    account_id uuid not null,
    kind text not null constraint credential_kind_is_known check (kind in ('password', 'totp', 'totp_pending')),
    verifier bytea not null,
    last_step bigint,
    constraint credential_pkey primary key (account_id, kind)
);

-- Verifiers of passwords that may not be reused yet, newest first by ordinal.
create table vault.password_history (
    account_id uuid not null,
    ordinal bigint not null generated always as identity,
    verifier bytea not null,
    constraint password_history_pkey primary key (account_id, ordinal)
);

-- HMACs of an account's unused recovery codes. Using a code deletes its row.
create table vault.recovery_code (
    account_id uuid not null,
    code_hash bytea not null constraint recovery_code_length check (octet_length(code_hash) = 32),
    constraint recovery_code_pkey primary key (account_id, code_hash)
);

-- The root from which a session's refresh tokens are derived, with a key that is not in the database.
create table vault.refresh_root (
    session_id uuid not null constraint refresh_root_pkey primary key,
    account_id uuid not null,
    -- The device of the login.
    device uuid not null,
    root bytea not null constraint refresh_root_length check (octet_length(root) = 32),
    expires_at timestamptz not null
);
create index refresh_root_expiry on vault.refresh_root (expires_at);

-- The list without the first occurrence of one time.
create function vault.without(list timestamptz[], one timestamptz) returns timestamptz[]
    immutable parallel safe
    language sql
    return case when array_position(list, one) is null then list
                else list[:array_position(list, one) - 1] || list[array_position(list, one) + 1:] end;

-- Attempts, counted before they are evaluated (fulexo_domain::lockout::AttemptCounter). The key is an HMAC of the address
-- entered, registered or not, so that both cost the same and the table does not distinguish them.
create table vault.attempt (
    key_hash bytea not null,
    factor text not null,
    -- The account, if known before the attempt: for a known device, a second factor, or all devices of an account.
    account_id uuid,
    -- The attempts of this window that were evaluated or are in progress.
    recent timestamptz[] not null,
    -- Of these, the attempts in progress, whose result is not known yet.
    pending timestamptz[] not null,
    -- Of the last attempt: its number in the window, or null if it was refused, and true if a lock had ended before it.
    number integer,
    lock_expired boolean not null,
    window_ends_at timestamptz not null,
    locked_until timestamptz,
    -- The position of the event that recorded this lock.
    locked_by bigint,
    locks integer not null,
    constraint attempt_pkey primary key (key_hash, factor)
) with (fillfactor = 70);
create index attempt_age on vault.attempt (window_ends_at);
create index attempt_account on vault.attempt (account_id) where account_id is not null;

-- The devices known to an account (see fulexo_domain::authentication). A device token is valid while its row exists, for at
-- most 400 days. A row is inserted once, by the login that generated the device's id.
create table vault.known_device (
    account_id uuid not null,
    device uuid not null,
    first_used_at timestamptz not null,
    last_used_at timestamptz not null,
    last_session uuid not null,
    -- The position of the last use, which orders devices.
    used bigint not null,
    constraint known_device_pkey primary key (account_id, device)
);
create index known_device_age on vault.known_device (first_used_at);

-- Request quotas shared by all nodes (fulexo_domain::rate_limit): one bucket per address and kind of route. The key is an
-- HMAC. The table is unlogged: after a crash every bucket is full, which does no harm.
create unlogged table vault.rate_limit (
    key_hash bytea not null,
    -- The time at which the bucket is full; if it has passed, the row means nothing.
    full_at timestamptz not null,
    -- True if the last request was admitted.
    admitted boolean not null,
    constraint rate_limit_pkey primary key (key_hash)
) with (fillfactor = 70);

-- One-time tokens sent by e-mail, each an HMAC of the token and its purpose. Following the link deletes the row.
create table vault.mail_token (
    token_hash bytea not null constraint mail_token_pkey primary key,
    account_id uuid not null,
    purpose text not null constraint mail_token_purpose_is_known
        check (purpose in ('password_reset', 'email_verification', 'not_me')),
    expires_at timestamptz not null,
    -- The number of passwords that this link has compared with the account's previous ones.
    comparisons smallint not null default 0
);
create index mail_token_account on vault.mail_token (account_id, purpose, expires_at);
create index mail_token_expiry on vault.mail_token (expires_at);

-- Outgoing mail, written with the event that caused it. The content is sealed under the person's key; the address is not
-- stored here. A sent mail keeps its emptied row for an hour, so that mails of a kind can be counted.
create table vault.mail (
    mail_id uuid not null constraint mail_pkey primary key,
    account_id uuid not null,
    kind text not null,
    -- The token in its link: once the token is gone, the mail is not worth sending.
    token_hash bytea not null,
    sealed bytea,
    created_at timestamptz not null,
    due_at timestamptz not null,
    attempts integer not null default 0
);
create index mail_account on vault.mail (account_id, kind, created_at);
create index mail_due on vault.mail (due_at) where sealed is not null;
create index mail_age on vault.mail (created_at) where sealed is null;

grant select, insert, update on vault.service_key, vault.subject_key, vault.period_key to fulexo_app;
grant delete on vault.period_key to fulexo_app;
grant select, insert, update, delete
    on vault.credential, vault.password_history, vault.recovery_code, vault.refresh_root, vault.attempt,
       vault.known_device, vault.rate_limit, vault.mail_token, vault.mail
    to fulexo_app;

-- The state that nodes share to use one certificate (RFC 8555): the account at a directory, and the certificate for a list
-- of names, with the turn to order the next one.
create table vault.acme_account (
    directory text not null constraint acme_account_pkey primary key,
    -- The account's address and private key, sealed.
    credentials bytea not null,
    -- The thumbprint of its public key (RFC 7638), with which any node answers an http-01 challenge.
    thumbprint text not null
);
create table vault.acme_certificate (
    directory text not null,
    names text not null,
    -- The chain and the private key in PEM, sealed; null before the first certificate.
    pem bytea,
    -- The number of certificates so far.
    version bigint not null,
    -- No node orders before this time: a node is ordering, or the last order failed.
    order_after timestamptz not null,
    -- The number of failed orders since the last successful one.
    failures integer not null,
    constraint acme_certificate_pkey primary key (directory, names)
);
grant select, insert, delete on vault.acme_account to fulexo_app;
grant select, insert, update on vault.acme_certificate to fulexo_app;
