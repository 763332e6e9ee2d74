//! Trust policies (C2SP tlog-policy): the logs that count, the witnesses, and which of them have to cosign a checkpoint.

use std::collections::{HashMap, HashSet};

use crate::decimal::decimal;
use crate::key::{KeyKind, VerifierKey};

/// The length of the longest policy that is read, in bytes.
const MAX_POLICY: usize = 1_024 * 1_024;
/// The most logs, witnesses and groups that are read, of each; the specification asks for 32.
const MAX_OF_EACH: usize = 256;

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    /// The keys of the logs. A checkpoint is signed by one of them.
    pub logs: Vec<VerifierKey>,
    /// The witnesses.
    pub witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    quorum: Option<QuorumMember>,
}

/// A witness of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedWitness {
    /// The name within the policy.
    pub name: String,
    /// The key.
    pub key: VerifierKey,
    /// The prefix to which checkpoints are submitted.
    pub url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    threshold: usize,
    members: Vec<QuorumMember>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum QuorumMember {
    /// The witness at this place.
    Witness(usize),
    /// The group at this place, which has only earlier groups as members.
    Group(usize),
}

/// A text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the policy: {fault}")]
pub struct TrustPolicyError {
    /// The number of the line, from 1; of the last one if something is missing.
    pub line: usize,
    /// The fault.
    pub fault: TrustPolicyFault,
}

/// A fault of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TrustPolicyFault {
    #[error("the policy is too long")]
    TooLong,
    #[error("the line has a control character, or is not UTF-8")]
    NotText,
    #[error("the line is none of log, witness, group and quorum, with what belongs to them")]
    UnknownLine,
    #[error("the key is none that can sign here")]
    BadKey,
    #[error("another line has the same key")]
    DuplicateKey,
    #[error("another line has the same name")]
    DuplicateName,
    #[error("no line above defines the name")]
    UnknownName,
    #[error("the name is a member of a group already")]
    MemberTwice,
    #[error("the threshold is not a number from 1 to the number of members")]
    BadThreshold,
    #[error("there is another quorum line")]
    SecondQuorum,
    #[error("there is no quorum line")]
    NoQuorum,
}

impl TrustPolicy {
    /// Reads a policy. Names and comments have to be UTF-8, which the specification recommends.
    ///
    /// # Errors
    /// [`TrustPolicyError`] names the first line with a fault.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustPolicyError> {
        if bytes.len() > MAX_POLICY {
            return Err(TrustPolicyError { line: 1, fault: TrustPolicyFault::TooLong });
        }
        let mut reader = Reader::default();
        let mut count = 0;
        for (number, line) in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').enumerate() {
            count = number + 1;
            reader.read(line).map_err(|fault| TrustPolicyError { line: count, fault })?;
        }
        let Reader { logs, witnesses, groups, quorum, .. } = reader;
        let quorum = quorum.ok_or(TrustPolicyError { line: count, fault: TrustPolicyFault::NoQuorum })?;
        Ok(Self { logs, witnesses, groups, quorum })
    }

    /// `true` if the witnesses that have cosigned, by their places in [`TrustPolicy::witnesses`], are enough.
    #[must_use]
    pub fn is_satisfied(&self, cosigned: impl Fn(usize) -> bool) -> bool {
        // A group comes after its members.
        let mut satisfied: Vec<bool> = Vec::with_capacity(self.groups.len());
        let holds = |satisfied: &[bool], member: &QuorumMember| match member {
            QuorumMember::Witness(place) => cosigned(*place),
            QuorumMember::Group(place) => satisfied.get(*place).copied().unwrap_or(false),
        };
        for group in &self.groups {
            let count = group.members.iter().filter(|member| holds(&satisfied, member)).count();
            satisfied.push(count >= group.threshold);
        }
        self.quorum.as_ref().is_none_or(|quorum| holds(&satisfied, quorum))
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<VerifierKey>,
    witnesses: Vec<TrustedWitness>,
    groups: Vec<Group>,
    names: HashMap<String, QuorumMember>,
    in_groups: HashSet<QuorumMember>,
    quorum: Option<Option<QuorumMember>>,
}

impl Reader {
    fn read(&mut self, line: &[u8]) -> Result<(), TrustPolicyFault> {
        let line = std::str::from_utf8(line).map_err(|_| TrustPolicyFault::NotText)?;
        if line.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err(TrustPolicyFault::NotText);
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        match *words {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["log", vkey] | ["log", vkey, _] => self.log(vkey),
            ["witness", name, vkey] => self.witness(name, vkey, None),
            ["witness", name, vkey, url] => self.witness(name, vkey, Some(url)),
            ["group", name, threshold, ref members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.set_quorum(name),
            _ => Err(TrustPolicyFault::UnknownLine),
        }
    }

    fn log(&mut self, vkey: &str) -> Result<(), TrustPolicyFault> {
        let key = VerifierKey::parse(vkey).map_err(|_| TrustPolicyFault::BadKey)?;
        if self.logs.iter().any(|log| log.is_same_key(&key)) {
            return Err(TrustPolicyFault::DuplicateKey);
        }
        push(&mut self.logs, key)
    }

    fn witness(&mut self, name: &str, vkey: &str, url: Option<&str>) -> Result<(), TrustPolicyFault> {
        let key = VerifierKey::parse(vkey).map_err(|_| TrustPolicyFault::BadKey)?;
        match key.kind() {
            KeyKind::Ed25519 => return Err(TrustPolicyFault::BadKey),
            KeyKind::Ed25519Cosignature | KeyKind::MlDsa44Cosignature => {}
        }
        if self.witnesses.iter().any(|witness| witness.key.is_same_key(&key)) {
            return Err(TrustPolicyFault::DuplicateKey);
        }
        self.define(name, QuorumMember::Witness(self.witnesses.len()))?;
        push(&mut self.witnesses, TrustedWitness { name: name.to_owned(), key, url: url.map(str::to_owned) })
    }

    fn group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), TrustPolicyFault> {
        let threshold = match threshold {
            "any" => 1,
            "all" => members.len(),
            number => decimal(number).and_then(|number| number.try_into().ok()).unwrap_or(0),
        };
        if !(1..=members.len()).contains(&threshold) {
            return Err(TrustPolicyFault::BadThreshold);
        }
        let members = members.iter().map(|member| self.known(member)).collect::<Result<Vec<_>, _>>()?;
        if !members.iter().all(|member| self.in_groups.insert(*member)) {
            return Err(TrustPolicyFault::MemberTwice);
        }
        self.define(name, QuorumMember::Group(self.groups.len()))?;
        push(&mut self.groups, Group { threshold, members })
    }

    fn set_quorum(&mut self, name: &str) -> Result<(), TrustPolicyFault> {
        let quorum = if name == NONE { None } else { Some(self.known(name)?) };
        match self.quorum.replace(quorum) {
            None => Ok(()),
            Some(_) => Err(TrustPolicyFault::SecondQuorum),
        }
    }

    fn known(&self, name: &str) -> Result<QuorumMember, TrustPolicyFault> {
        self.names.get(name).copied().ok_or(TrustPolicyFault::UnknownName)
    }

    fn define(&mut self, name: &str, member: QuorumMember) -> Result<(), TrustPolicyFault> {
        if name == NONE || self.names.insert(name.to_owned(), member).is_some() {
            return Err(TrustPolicyFault::DuplicateName);
        }
        Ok(())
    }
}

/// The name of the quorum that takes nobody.
const NONE: &str = "none";

fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), TrustPolicyFault> {
    if list.len() == MAX_OF_EACH {
        return Err(TrustPolicyFault::TooLong);
    }
    list.push(item);
    Ok(())
}
