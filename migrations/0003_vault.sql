-- What must never be in the log. Every secret here is sealed with AES-256-GCM or is a keyed digest; the keys that
-- open it come from the environment.

-- Keys that the service draws once and keeps wrapped, so that ENCRYPTION_KEY can be rotated without changing
-- what they were used for.
create table vault.service_key (
    purpose text not null constraint service_key_pkey primary key,
    wrapped bytea not null,
    kek_id text not null
);

-- One data key a person. Destroying it (and the sealed rows) is how a person is forgotten.
create table vault.subject_key (
    subject_id uuid not null constraint subject_key_pkey primary key,
    wrapped bytea,
    kek_id text not null,
    shredded_at timestamptz,
    constraint subject_key_is_there_or_shredded check ((wrapped is null) = (shredded_at is not null))
);

-- One data key a calendar month, for network facts about nobody in particular.
create table vault.period_key (
    period date not null constraint period_key_pkey primary key,
    wrapped bytea not null,
    kek_id text not null
);

-- What each factor is verified with, sealed under the person's key: the password's verifier, the seed of the second
-- factor, and that of one which is being set up. Of a seed also the last time step (RFC 6238) of which a code was accepted: a
-- code is good once, and none before it.
create table vault.credential (
    account_id uuid not null,
    kind text not null constraint credential_kind_is_known check (kind in ('password', 'totp', 'totp_pending')),
    verifier bytea not null,
    last_step bigint,
    constraint credential_pkey primary key (account_id, kind)
);

-- Verifiers of passwords that may not come back yet, newest first by ordinal.
create table vault.password_history (
    account_id uuid not null,
    ordinal bigint not null generated always as identity,
    verifier bytea not null,
    constraint password_history_pkey primary key (account_id, ordinal)
);

-- HMACs of the recovery codes that an account has left. Using one deletes its row.
create table vault.recovery_code (
    account_id uuid not null,
    code_hash bytea not null constraint recovery_code_length check (octet_length(code_hash) = 32),
    constraint recovery_code_pkey primary key (account_id, code_hash)
);

-- The root that a session's refresh tokens are derived from, with a key that is not in the database.
create table vault.refresh_root (
    session_id uuid not null constraint refresh_root_pkey primary key,
    account_id uuid not null,
    -- Where its owner logged in.
    device uuid not null,
    root bytea not null constraint refresh_root_length check (octet_length(root) = 32),
    expires_at timestamptz not null
);
create index refresh_root_expiry on vault.refresh_root (expires_at);

-- A list of times without one of them, once.
create function vault.without(list timestamptz[], one timestamptz) returns timestamptz[]
    immutable parallel safe
    language sql
    return case when array_position(list, one) is null then list
                else list[:array_position(list, one) - 1] || list[array_position(list, one) + 1:] end;

-- Attempts, counted before they are evaluated (fulexo_domain::lockout::Counter). The key is an HMAC of what was typed
-- in, registered or not, so that both cost the same and neither can be told from the table.
create table vault.attempt (
    key_hash bytea not null,
    factor text not null,
    -- Whose it is, where that is known before the attempt: a known device, a second factor, all devices of an account.
    account_id uuid,
    -- Attempts of this window that were evaluated, or are under way.
    recent timestamptz[] not null,
    -- Of these, the ones that are under way: whether they were right is not known yet.
    pending timestamptz[] not null,
    -- Of the last attempt: its number in the window, or null when it was refused; whether a lock had passed before it.
    number integer,
    lock_passed boolean not null,
    window_ends_at timestamptz not null,
    locked_until timestamptz,
    locks integer not null,
    constraint attempt_pkey primary key (key_hash, factor)
) with (fillfactor = 70);
create index attempt_age on vault.attempt (window_ends_at);
create index attempt_account on vault.attempt (account_id) where account_id is not null;

-- The devices that an account knows (fulexo_domain::authentication says which): a device token is worth something as long
-- as its row is here, and for 400 days. A device is put here once, by the login that drew its id.
create table vault.known_device (
    account_id uuid not null,
    device uuid not null,
    first_used_at timestamptz not null,
    last_used_at timestamptz not null,
    last_session uuid not null,
    -- The order of use is that of the log.
    used bigint not null,
    constraint known_device_pkey primary key (account_id, device)
);
create index known_device_age on vault.known_device (first_used_at);

-- Requests counted by all nodes together (fulexo_domain::rate_limit): the bucket of one address on one kind of route. The
-- key is an HMAC. Not logged: after a crash every bucket is full, which nobody minds.
create unlogged table vault.rate_limit (
    key_hash bytea not null,
    -- When it will be full again; a bucket whose time has passed says nothing.
    full_at timestamptz not null,
    -- Whether the last request was let in.
    admitted boolean not null,
    constraint rate_limit_pkey primary key (key_hash)
) with (fillfactor = 70);

-- One-time tokens that were mailed, each an HMAC of the token and what it is for. Following a link deletes its row.
create table vault.mail_token (
    token_hash bytea not null constraint mail_token_pkey primary key,
    account_id uuid not null,
    purpose text not null constraint mail_token_purpose_is_known
        check (purpose in ('password_reset', 'email_verification', 'not_me')),
    expires_at timestamptz not null,
    -- Passwords that were compared with the account's last ones by it.
    comparisons smallint not null default 0
);
create index mail_token_account on vault.mail_token (account_id, purpose, expires_at);
create index mail_token_expiry on vault.mail_token (expires_at);

-- Mail that waits to be sent, written with the event that it is about. What it says is sealed under the person's key; the
-- address is not here. Once sent its row stays for an hour, emptied, so that mails of a kind can be counted.
create table vault.mail (
    mail_id uuid not null constraint mail_pkey primary key,
    account_id uuid not null,
    kind text not null,
    -- Of the token that its link holds: without it, it is not worth sending.
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

-- What nodes share to have one certificate between them (RFC 8555): the account at a directory, and the certificate for a
-- list of names with who may order the next one, and when.
create table vault.acme_account (
    directory text not null constraint acme_account_pkey primary key,
    -- The account's address and private key, sealed.
    credentials bytea not null,
    -- Of its public key (RFC 7638), with which any node answers an http-01 challenge.
    thumbprint text not null
);
create table vault.acme_certificate (
    directory text not null,
    names text not null,
    -- Chain and private key in PEM, sealed; null before the first.
    pem bytea,
    -- How many there were.
    version bigint not null,
    -- Nobody orders before: a node is at it, or the last order failed.
    order_after timestamptz not null,
    -- Orders that failed since the last one that did not.
    failures integer not null,
    constraint acme_certificate_pkey primary key (directory, names)
);
grant select, insert, delete on vault.acme_account to fulexo_app;
grant select, insert, update on vault.acme_certificate to fulexo_app;
