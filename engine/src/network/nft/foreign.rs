//! Our place in the tables of others.
//!
//! A packet must pass every base chain of a hook, so an `accept` in our table does not help where another program's
//! chain drops what it does not know: Docker sets the policy of `ip filter FORWARD` to drop, ufw and firewalld do
//! alike. At the head of each such chain we put two rules that accept what comes from or goes to bridges of ours; what
//! may go to them is decided in our own table, which such an `accept` does not end. They are written so that
//! `iptables-nft` can read its own table with them in it.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::{ANY, Batch, DELETE_RULE, Family, GET_CHAIN, GET_RULE, request, user_data};
use super::expression::{ACCEPT, Attributes, DROP, Expression, GOTO, JUMP, Meta, R0, equal, meta, verdict};
use super::ruleset::TABLE;
use super::{FAMILIES, FilterError, prefix};
use crate::network::netlink::{Refusal, Socket, attributes};

/// How our rules in others' chains are known again.
const COMMENT: &str = "rcompose";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ChainName {
    family: u8,
    table: String,
    chain: String,
}

#[derive(Debug)]
struct Rule {
    handle: u64,
    ours: bool,
    /// Whether it can end a packet by itself.
    drops: bool,
    /// Chains of the same table that it can lead to.
    targets: Vec<String>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Base chains of filters at the forward hook, and whether their policy is to drop.
    forward: BTreeMap<ChainName, bool>,
    rules: BTreeMap<ChainName, Vec<Rule>>,
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_be_bytes).unwrap_or_default()
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Reads every chain and rule of all tables but ours.
fn read(socket: &mut Socket) -> Result<Tables, FilterError> {
    let error = |what| move |source: Refusal| FilterError::Read { what, source };
    let mut tables = Tables::default();
    let chains = socket.dump(&request(GET_CHAIN, ANY, &Attributes::default())).map_err(error("chains"))?;
    for reply in &chains {
        let Some((header, body)) = reply.payload.split_at_checked(4) else { continue };
        let mut name = ChainName { family: header[0], table: String::new(), chain: String::new() };
        let (mut hook, mut policy, mut kind) = (None, 1, String::new());
        for (attribute, value) in attributes(body) {
            match attribute {
                1 => name.table = string(value),
                3 => name.chain = string(value),
                4 => hook = attributes(value).find(|(k, _)| *k == 1).map(|(_, v)| number(v)),
                5 => policy = number(value),
                7 => kind = string(value),
                _ => {}
            }
        }
        let known = FAMILIES.iter().any(|family| family.0 == name.family);
        if known && hook == Some(super::batch::FORWARD) && kind == "filter" && name.table != TABLE {
            tables.forward.insert(name, policy == 0);
        }
    }
    // Without a forward chain there is nothing to look for, and a host's rules can be many.
    if tables.forward.is_empty() {
        return Ok(tables);
    }
    let owners: BTreeSet<(u8, String)> = tables.forward.keys().map(|c| (c.family, c.table.clone())).collect();
    for (family, table) in owners {
        let dump = request(GET_RULE, Family(family), &Attributes::default().text(1, &table));
        for reply in socket.dump(&dump).map_err(error("rules"))? {
            let Some((header, body)) = reply.payload.split_at_checked(4) else { continue };
            let mut name = ChainName { family: header[0], table: String::new(), chain: String::new() };
            let mut rule = Rule { handle: 0, ours: false, drops: false, targets: Vec::new() };
            for (attribute, value) in attributes(body) {
                match attribute {
                    1 => name.table = string(value),
                    2 => name.chain = string(value),
                    3 => rule.handle = value.try_into().map(u64::from_be_bytes).unwrap_or_default(),
                    4 => attributes(value).for_each(|(_, expression)| look(expression, &mut rule)),
                    7 => rule.ours = value == user_data(COMMENT),
                    _ => {}
                }
            }
            tables.rules.entry(name).or_default().push(rule);
        }
    }
    Ok(tables)
}

/// Notes whether an expression can drop a packet, and where it can send it.
fn look(expression: &[u8], rule: &mut Rule) {
    let (mut name, mut data) = (String::new(), &[][..]);
    for (attribute, value) in attributes(expression) {
        match attribute {
            1 => name = string(value),
            2 => data = value,
            _ => {}
        }
    }
    match name.as_str() {
        "reject" => rule.drops = true,
        // A verdict map may hold anything; register 0 is the verdict.
        "lookup" => rule.drops |= attributes(data).any(|(kind, v)| kind == 3 && number(v) == 0),
        // A target of xtables that iptables-nft carries through, such as REJECT.
        "target" => {
            let target = attributes(data).find(|(kind, _)| *kind == 1).map(|(_, v)| string(v));
            rule.drops |= matches!(target.as_deref(), Some("REJECT" | "DROP" | "NFQUEUE"));
        }
        "immediate" => {
            for (_, value) in attributes(data).filter(|(kind, _)| *kind == 2) {
                for (_, verdict) in attributes(value).filter(|(kind, _)| *kind == 2) {
                    let mut code = None;
                    let mut chain = None;
                    for (kind, value) in attributes(verdict) {
                        match kind {
                            1 => code = value.try_into().ok().map(i32::from_be_bytes),
                            2 => chain = Some(string(value)),
                            _ => {}
                        }
                    }
                    match (code, chain) {
                        (Some(DROP), _) => rule.drops = true,
                        (Some(JUMP | GOTO), Some(chain)) => rule.targets.push(chain),
                        _ => {}
                    }
                }
            }
        }
        _ => {}
    }
}

impl Tables {
    /// Returns whether a packet that enters at `base` may be dropped, by the policy or by a rule that it can reach.
    fn may_drop(&self, base: &ChainName, policy: bool) -> bool {
        let mut open = vec![base.clone()];
        let mut seen = BTreeSet::new();
        while let Some(chain) = open.pop() {
            for rule in self.rules.get(&chain).into_iter().flatten() {
                if rule.drops {
                    return true;
                }
                open.extend(rule.targets.iter().map(|to| ChainName { chain: to.clone(), ..chain.clone() }));
            }
            seen.insert(chain);
            open.retain(|chain| !seen.contains(chain));
        }
        policy
    }

    fn ours(&self, chain: &ChainName) -> Vec<u64> {
        let rules = self.rules.get(chain).into_iter().flatten();
        rules.filter(|rule| rule.ours).map(|rule| rule.handle).collect()
    }
}

fn accept(key: Meta) -> [Expression; 3] {
    [meta(key, R0), equal(R0, prefix()), verdict(ACCEPT)]
}

/// Adds our two rules to every chain that would drop our packets and has not both of them, and takes them out of
/// chains that drop nothing any more.
pub(super) fn insert(socket: &mut Socket, batch: &mut Batch) -> Result<(), FilterError> {
    let tables = read(socket)?;
    for (name, policy) in &tables.forward {
        let family = Family(name.family);
        let ours = tables.ours(name);
        let wanted = if tables.may_drop(name, *policy) { 2 } else { 0 };
        if ours.len() == wanted {
            continue;
        }
        for handle in ours {
            batch.delete_rule(family, &name.table, &name.chain, handle);
        }
        if wanted > 0 {
            batch.head(family, &name.table, &name.chain, &accept(Meta::OifName), COMMENT);
            batch.head(family, &name.table, &name.chain, &accept(Meta::IifName), COMMENT);
        }
    }
    Ok(())
}

/// Takes our rules out of every chain of others.
pub(super) fn withdraw(socket: &mut Socket, batch: &mut Batch) -> Result<(), FilterError> {
    let tables = read(socket)?;
    for name in tables.forward.keys() {
        for handle in tables.ours(name) {
            let attributes = Attributes::default().text(1, &name.table).text(2, &name.chain).wide(3, handle);
            batch.push(DELETE_RULE, 0, Family(name.family), &attributes);
        }
    }
    Ok(())
}

/// Returns how many rules of ours others' chains hold.
pub(super) fn count(socket: &mut Socket) -> Result<usize, FilterError> {
    let tables = read(socket)?;
    Ok(tables.forward.keys().map(|name| tables.ours(name).len()).sum())
}

/// Returns whether the host filters with the old `ip_tables` of the kernel, which nf_tables cannot reach into.
///
/// Nothing can be put into those tables through nf_tables, so all that can be done is to say so.
pub(crate) fn legacy_filter() -> bool {
    let filters = |path| std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == "filter"));
    filters("/proc/thread-self/net/ip_tables_names") || filters("/proc/thread-self/net/ip6_tables_names")
}
