//! Members that join, sync, commit, crash, restart and leave at random, over a log that is slow and sometimes fails.
//!
//! What has to hold after every step: each token is answered exactly once, a generation never goes back, an assignment
//! belongs to a member of the generation it was made for, a committed offset never goes back by itself. At quiet
//! moments a coordinator loaded from the log equals the live one.

use std::collections::BTreeSet;

use super::*;

/// A small generator; the coordinator itself has no randomness.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// What a client believes.
#[derive(Debug, Default, Clone)]
struct Client {
    instance: Option<String>,
    member_id: String,
    generation: i32,
    /// Tells the leader who to assign to.
    members: Vec<String>,
    waiting: Option<u32>,
    stable: bool,
}

struct World {
    story: Story,
    dice: Dice,
    clients: Vec<Client>,
    ids: u32,
    outstanding: BTreeSet<u32>,
    generation: i32,
    next_offset: i64,
    /// Offset of each commit under way, and the highest that was acknowledged.
    commits: BTreeMap<u32, i64>,
    acknowledged: i64,
    stable_rounds: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = GroupConfig { initial_rebalance_delay_ms: 50 * (seed % 3), max_size: 4, ..GroupConfig::default() };
        let mut story = Story::new(config);
        story.hold_appends = true;
        let client = |index: usize| Client { instance: (index < 2).then(|| format!("i{index}")), ..Client::default() };
        Self {
            story,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            clients: (0..5).map(client).collect(),
            ids: 0,
            outstanding: BTreeSet::new(),
            generation: 0,
            next_offset: 0,
            commits: BTreeMap::new(),
            acknowledged: -1,
            stable_rounds: 0,
        }
    }

    fn step(&mut self) {
        let index = usize::try_from(self.dice.roll(5)).unwrap();
        match self.dice.roll(16) {
            0..=5 => self.act(index),
            6 => self.heartbeat(index),
            7 => self.commit(index),
            8 if self.dice.roll(4) == 0 => self.leave(index),
            // A crash: the client forgets all, also what it waits for.
            9 if self.dice.roll(3) == 0 => {
                self.clients[index] = Client { instance: self.clients[index].instance.clone(), ..Client::default() };
            }
            10..=12 => self.finish_append(),
            _ => {
                let most = if self.dice.roll(20) == 0 { 20_000 } else { 400 };
                let ms = self.dice.roll(most);
                self.story.pass(ms);
            }
        }
        self.receive();
    }

    /// The next thing this client has to do to be a member.
    fn act(&mut self, index: usize) {
        let client = self.clients[index].clone();
        if client.waiting.is_some() && self.dice.roll(10) > 0 {
            return;
        }
        let token = if client.generation > 0 && !client.stable {
            let assign = |id: &String| (id.clone(), bytes(&format!("{}@{id}", client.generation)));
            let assignments = client.members.iter().map(assign).collect();
            let token = self.story.token();
            let request = SyncGroupRequest {
                group_instance_id: client.instance,
                assignments,
                ..sync(&client.member_id, client.generation)
            };
            let effects = self.story.coordinator.sync(self.story.now, token, request);
            self.story.take(effects);
            token
        } else if client.stable && self.dice.roll(6) > 0 {
            return self.heartbeat(index);
        } else {
            self.ids += 1;
            let fresh = format!("m{:05}", self.ids);
            self.story.join(JoinGroupRequest {
                group_instance_id: client.instance,
                require_known_member_id: self.dice.roll(2) == 0,
                supports_skipping_assignment: self.dice.roll(2) == 0,
                rebalance_timeout_ms: 12_000,
                protocols: vec![protocol("range", if self.dice.roll(9) == 0 { "m2" } else { "m" })],
                ..join(&client.member_id, &fresh)
            })
        };
        self.outstanding.insert(token);
        self.clients[index].waiting = Some(token);
    }

    fn heartbeat(&mut self, index: usize) {
        let client = &self.clients[index];
        let request = HeartbeatRequest {
            group_instance_id: client.instance.clone(),
            ..heartbeat(&client.member_id, client.generation)
        };
        let error = self.story.coordinator.heartbeat(self.story.now, &request);
        self.obey(index, error);
    }

    fn obey(&mut self, index: usize, error: ErrorCode) {
        let client = &mut self.clients[index];
        match error {
            ErrorCode::None => {}
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => {
                *client = Client { instance: client.instance.clone(), waiting: client.waiting, ..Client::default() };
            }
            _ => {
                client.generation = 0;
                client.stable = false;
            }
        }
    }

    fn commit(&mut self, index: usize) {
        let client = self.clients[index].clone();
        self.next_offset += 1;
        let request = OffsetCommitRequest {
            group_instance_id: client.instance,
            ..commit(&client.member_id, client.generation.max(1), self.next_offset)
        };
        let token = self.story.commit(request);
        self.outstanding.insert(token);
        self.commits.insert(token, self.next_offset);
    }

    fn leave(&mut self, index: usize) {
        let client = std::mem::take(&mut self.clients[index]);
        self.clients[index].instance.clone_from(&client.instance);
        self.story.leave(&[(client.member_id.as_str(), client.instance.as_deref())]);
    }

    fn finish_append(&mut self) {
        let Some((ticket, records)) = self.story.held.pop_front() else { return };
        let result = if self.dice.roll(12) == 0 { Err(ErrorCode::NotEnoughReplicas) } else { Ok(()) };
        if result.is_ok() {
            self.story.log.extend(records);
        }
        let before = self.story.committed("t", 0);
        let effects = self.story.coordinator.append_done(self.story.now, ticket, result);
        assert!(self.story.committed("t", 0) >= before, "a committed offset went back");
        self.story.take(effects);
    }

    fn receive(&mut self) {
        for (token, response) in std::mem::take(&mut self.story.answers) {
            assert!(self.outstanding.remove(&token), "token {token} was answered twice or never asked");
            match response {
                GroupResponse::Join(response) => self.receive_join(token, response),
                GroupResponse::Sync(response) => self.receive_sync(token, &response),
                GroupResponse::OffsetCommit(topics) => {
                    let offset = self.commits.remove(&token).unwrap();
                    if topics[0].partitions[0].error == ErrorCode::None {
                        self.acknowledged = self.acknowledged.max(offset);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.story.committed("t", 0) >= self.acknowledged, "an acknowledged offset is gone");
        let group = self.story.coordinator.groups.get("g");
        let generation = group.map_or(self.generation, |group| group.generation);
        assert!(generation >= self.generation, "the generation went back");
        self.generation = generation;
        if let Some(group) = group {
            // As in Kafka, members that are away during a rebalance do not count until they come back.
            assert!(group.members.values().filter(|member| member.joining.is_some()).count() <= 4);
            let statics = group.members.iter().filter_map(|(id, m)| Some((m.instance_id.clone()?, id.clone())));
            assert_eq!(statics.collect::<BTreeMap<_, _>>(), group.static_members);
            assert_eq!(group.leader.is_some(), !group.members.is_empty());
            assert!(group.leader.iter().all(|leader| group.members.contains_key(leader)));
        }
        for token in &self.outstanding {
            assert!(self.is_known_parked(*token), "token {token} was forgotten");
        }
    }

    fn is_known_parked(&self, token: u32) -> bool {
        let members = self.story.coordinator.groups.values().flat_map(|group| group.members.values());
        self.commits.contains_key(&token)
            || members.into_iter().any(|member| [member.joining, member.syncing].contains(&Some(token)))
    }

    fn receive_join(&mut self, token: u32, response: JoinGroupResponse) {
        if response.error == ErrorCode::None {
            let current = self.story.coordinator.groups["g"].generation;
            assert!(response.generation_id <= current, "a generation nobody formed");
        }
        let Some(index) = self.clients.iter().position(|client| client.waiting == Some(token)) else { return };
        let client = &mut self.clients[index];
        client.waiting = None;
        match response.error {
            ErrorCode::None => {
                client.member_id = response.member_id;
                client.generation = response.generation_id;
                client.members = response.members.into_iter().map(|member| member.member_id).collect();
                client.stable = false;
            }
            ErrorCode::MemberIdRequired => client.member_id = response.member_id,
            ErrorCode::GroupMaxSizeReached => {
                *client = Client { instance: client.instance.clone(), ..Client::default() };
            }
            error => self.obey(index, error),
        }
    }

    fn receive_sync(&mut self, token: u32, response: &SyncGroupResponse) {
        let Some(index) = self.clients.iter().position(|client| client.waiting == Some(token)) else { return };
        self.clients[index].waiting = None;
        if response.error != ErrorCode::None {
            return self.obey(index, response.error);
        }
        let client = &mut self.clients[index];
        client.stable = true;
        if !response.assignment.is_empty() && client.instance.is_none() {
            let mine = format!("{}@{}", client.generation, client.member_id);
            assert_eq!(response.assignment, bytes(&mine), "an assignment of another member or generation");
        }
    }

    /// Lets all appends succeed, and compares with a coordinator that reads the log.
    fn compare_with_a_reload(&mut self) {
        while let Some((ticket, records)) = self.story.held.pop_front() {
            self.story.log.extend(records);
            let effects = self.story.coordinator.append_done(self.story.now, ticket, Ok(()));
            self.story.take(effects);
        }
        self.receive();
        let reloaded = Story::from_log(self.story.coordinator.config.clone(), self.story.log.clone());
        let everything = OffsetFetchRequest { group_id: "g".into(), topics: None };
        let offsets = |story: &Story| story.coordinator.fetch_offsets(&everything);
        assert_eq!(offsets(&self.story), offsets(&reloaded));
        let live = self.story.describe("g");
        if live.state == Some(GroupState::Stable) {
            self.stable_rounds += 1;
            assert_eq!(live, reloaded.describe("g"));
            let facts = |story: &Story| {
                let group = &story.coordinator.groups["g"];
                (group.generation, group.leader.clone(), group.static_members.clone(), group.protocol.clone())
            };
            assert_eq!(facts(&self.story), facts(&reloaded));
        }
    }
}

#[test]
fn random_lives_of_a_group_keep_its_promises() {
    let mut stable_rounds = 0;
    let mut generations = 0;
    let mut acknowledged = 0;
    for seed in 1..=60 {
        let mut world = World::new(seed);
        for step in 0..1_500 {
            world.step();
            if step % 50 == 49 {
                world.compare_with_a_reload();
            }
        }
        let effects = world.story.coordinator.unload();
        world.story.take(effects);
        let left: BTreeSet<u32> = world.story.answers.keys().copied().collect();
        assert_eq!(left, world.outstanding, "seed {seed}: unloading answers all that is parked");
        stable_rounds += world.stable_rounds;
        generations += world.generation;
        acknowledged += world.acknowledged.max(0);
    }
    // The worlds are worth their time: groups form, settle and commit.
    assert!(stable_rounds > 100, "{stable_rounds} stable rounds");
    assert!(generations > 600, "{generations} generations");
    assert!(acknowledged > 600, "{acknowledged} offsets");
}
