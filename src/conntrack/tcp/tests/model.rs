//! Random segments, valid and hostile, against a model that keeps the two
//! streams apart and counts in 64 bits, so that nothing in it wraps.
//!
//! Property: after every segment the verdict, the state and all tracked
//! numbers agree, in any numbering; and where the fast path takes a segment it
//! does what the full function does.

use proptest::prelude::*;

use super::*;

const TWO_32: u64 = 1 << 32;

/// The 64-bit number that reads `wire` in 32 bits and is nearest to `to`.
fn nearest(wire: u32, to: u64) -> u64 {
    let base = to - to % TWO_32 + u64::from(wire);
    [base - TWO_32, base, base + TWO_32]
        .into_iter()
        .min_by_key(|&candidate| candidate.abs_diff(to))
        .expect("three of them")
}

/// What one side sends.
#[derive(Clone, Debug)]
struct Stream {
    isn: u64,
    /// End of what came without a gap.
    sent: u64,
    /// Furthest acknowledgement.
    confirmed: u64,
    /// End of what came beyond a gap, and whether that is a FIN.
    beyond: Option<(u64, bool)>,
    /// The number after the FIN.
    end: Option<u64>,
    end_confirmed: bool,
}

impl Stream {
    fn starting(isn: u64, sent: u64) -> Self {
        Self {
            isn,
            sent,
            confirmed: isn + 1,
            beyond: None,
            end: None,
            end_confirmed: false,
        }
    }

    fn plausible(&self, end: u64, window: u64) -> bool {
        let in_window = (self.confirmed..=self.confirmed + window + 1).contains(&end);
        let next_in_line = (self.sent..=self.sent + 65_535).contains(&end);
        in_window || next_in_line
    }

    /// What lies beyond a gap, as far as a receiver would keep it.
    fn beyond(&self, window: u64) -> Option<(u64, bool)> {
        self.beyond
            .filter(|(end, _)| (self.sent + 1..=self.sent + window + 1).contains(end))
    }

    fn far(&self, window: u64) -> u64 {
        self.beyond(window).map_or(self.sent, |(end, _)| end)
    }

    fn advance(&mut self, to: u64) {
        self.sent = to;
        self.beyond = self.beyond.filter(|(end, _)| *end > to);
    }

    fn take(&mut self, seq: u64, end: u64, fin: bool, believed: bool, window: u64) {
        if self.end.is_some() {
            return;
        }
        let continues = (seq..end).contains(&self.sent);
        if continues && fin && believed {
            self.end = Some(end);
            self.sent = end;
            self.beyond = None;
        } else if continues && !fin {
            self.advance(end);
        } else if end > self.sent && self.plausible(end, window) && (fin || end > self.far(window))
        {
            self.beyond = Some((end, fin));
        }
    }

    /// Whether a receiver would look at an acknowledgement of this stream.
    fn would_take(&self, number: u64, window: u64) -> bool {
        (self.confirmed - window..=self.far(window)).contains(&number)
    }

    /// The receiver has what lies beyond the gap, and so the gap.
    fn confirm_beyond(&mut self, number: u64, window: u64) {
        let Some((end, fin)) = self.beyond(window) else {
            return;
        };
        if (self.sent + 1..=end).contains(&number) {
            self.advance(number);
            self.confirmed = number;
            if fin && number == end {
                self.end = Some(end);
            }
        }
    }

    fn can_confirm(&self, number: u64) -> bool {
        (self.confirmed..=self.sent).contains(&number)
    }

    fn check_end(&mut self) {
        self.end_confirmed |= self.end == Some(self.confirmed);
    }
}

struct Model {
    client: Stream,
    /// None until its SYN-ACK.
    server: Option<Stream>,
    shaken: bool,
    reset: bool,
    held: bool,
    scaling: bool,
    client_scale: u8,
    server_scale: u8,
    delta: u32,
}

impl Model {
    fn open(syn: &Segment, delta: u32, held: bool) -> Self {
        let isn = 5 * TWO_32 + u64::from(syn.seq);
        Self {
            client: Stream::starting(isn, isn + 1 + u64::from(syn.payload_len)),
            server: None,
            shaken: false,
            reset: false,
            held,
            scaling: syn.window_scale.is_some(),
            client_scale: syn.window_scale.unwrap_or(0).min(14),
            server_scale: 0,
            delta,
        }
    }

    fn state(&self) -> State {
        let Some(server) = &self.server else {
            return if self.reset {
                State::Closed
            } else {
                State::SynSent
            };
        };
        if self.reset {
            return State::Closed;
        }
        if !self.shaken {
            return State::SynReceived;
        }
        match (self.client.end, server.end) {
            (None, None) => State::Established,
            (Some(_), None) => State::ClientClosed,
            (None, Some(_)) => State::ServerClosed,
            _ if self.client.end_confirmed && server.end_confirmed => State::TimeWait,
            _ => State::Closing,
        }
    }

    /// Whether a new SYN waits for what becomes of a connection in this state.
    fn holds(&self, state: State) -> bool {
        let over = matches!(state, State::TimeWait | State::Closed);
        self.held && self.shaken && !over
    }

    fn window_of_client(&self) -> u64 {
        65_535 << if self.scaling { self.client_scale } else { 0 }
    }

    fn window_of_server(&self) -> u64 {
        65_535 << if self.scaling { self.server_scale } else { 0 }
    }

    fn step(&mut self, direction: Direction, segment: &Segment) -> Verdict {
        let has = |mask| segment.flags.has(mask);
        let syn = has(Flags::SYN);
        if syn && (has(Flags::FIN) || has(Flags::RST))
            || !syn && !has(Flags::RST) && !has(Flags::ACK)
        {
            return Verdict::Drop(DropReason::TcpBadFlags);
        }
        let before = self.state();
        let verdict = match (direction, syn) {
            (Direction::Forward, true) => self.client_syn(segment),
            (Direction::Forward, false) => self.client_segment(segment),
            (Direction::Reverse, true) => self.server_syn(segment),
            (Direction::Reverse, false) => self.server_segment(segment),
        };
        match verdict {
            Verdict::Pass { .. } => Verdict::Pass {
                rearm: before != self.state(),
            },
            other => other,
        }
    }

    fn client_syn(&mut self, segment: &Segment) -> Verdict {
        if segment.flags.has(Flags::ACK) {
            return Verdict::Drop(DropReason::TcpUnexpected);
        }
        let same = segment.seq == self.client.isn as u32;
        let state = self.state();
        if state.is_half_open() {
            if !same {
                return Verdict::NewAttempt;
            }
            let end = self.client.isn + 1 + u64::from(segment.payload_len);
            let window = self.window_of_server();
            let ends = self.client.beyond(window).is_some_and(|(_, fin)| fin);
            if self.client.end.is_none() && !ends && end > self.client.sent {
                self.client.advance(end);
            }
            if let Some(scale) = segment.window_scale {
                self.client_scale = scale.min(14);
                self.scaling |= self.server.is_none();
            }
            return Verdict::Retransmitted;
        }
        if !matches!(state, State::TimeWait | State::Closed) {
            return if same {
                PASS
            } else {
                Verdict::SynOnEstablished
            };
        }
        // Nobody here has timestamps.
        if same && self.shaken {
            Verdict::Drop(DropReason::TcpOldDuplicate)
        } else {
            Verdict::Reuse
        }
    }

    fn client_segment(&mut self, segment: &Segment) -> Verdict {
        let rst = segment.flags.has(Flags::RST);
        let (window, back) = (self.window_of_server(), self.window_of_client());
        if matches!(self.state(), State::TimeWait | State::Closed) {
            return PASS;
        }
        let Some(server) = &mut self.server else {
            let seq = nearest(segment.seq, self.client.isn);
            if rst && !(self.client.isn..=self.client.sent).contains(&seq) {
                return Verdict::Drop(DropReason::TcpRstOutOfWindow);
            }
            self.reset = rst;
            return PASS;
        };
        let seq = nearest(segment.seq, self.client.sent);
        if rst {
            return rst_verdict(&self.client, seq, window, &mut self.reset);
        }
        let fin = segment.flags.has(Flags::FIN);
        let end = seq + u64::from(segment.payload_len) + u64::from(fin);
        let ack = nearest(segment.ack, server.confirmed);
        let believed = server.would_take(ack, back);
        self.client.take(seq, end, fin, believed, window);
        let in_stream = (self.client.confirmed..=self.client.far(window)).contains(&seq);
        if server.can_confirm(ack) {
            server.confirmed = ack;
            self.shaken = true;
        } else if in_stream && self.shaken {
            server.confirm_beyond(ack, back);
        }
        self.client.check_end();
        server.check_end();
        PASS
    }

    fn server_syn(&mut self, segment: &Segment) -> Verdict {
        if !segment.flags.has(Flags::ACK) {
            return Verdict::Drop(DropReason::TcpUnexpected);
        }
        let ack = nearest(segment.ack.wrapping_sub(self.delta), self.client.isn);
        let state = self.state();
        if state.is_half_open() {
            if !(self.client.isn + 1..=self.client.sent).contains(&ack) {
                return if state == State::SynSent {
                    Verdict::StaleServer
                } else {
                    Verdict::Drop(DropReason::TcpUnexpected)
                };
            }
            let isn = 9 * TWO_32 + u64::from(segment.seq);
            if self.server.as_ref().is_none_or(|server| server.isn != isn) {
                let sent = isn + 1 + u64::from(segment.payload_len);
                self.server = Some(Stream::starting(isn, sent));
                match segment.window_scale {
                    Some(scale) => self.server_scale = scale.min(14),
                    None => self.scaling = false,
                }
            }
            self.client.confirmed = ack;
            return PASS;
        }
        if (self.client.isn + 1..=self.client.isn + 65_536).contains(&ack) {
            PASS
        } else if self.holds(state) {
            Verdict::AnswersHeldSyn
        } else {
            Verdict::Drop(DropReason::TcpSynOutOfWindow)
        }
    }

    fn server_segment(&mut self, segment: &Segment) -> Verdict {
        let rst = segment.flags.has(Flags::RST);
        let (window, back) = (self.window_of_client(), self.window_of_server());
        let state = self.state();
        if matches!(state, State::TimeWait | State::Closed) {
            return PASS;
        }
        let wire_ack = segment.ack.wrapping_sub(self.delta);
        let holds = self.holds(state);
        let acks_syn = segment.flags.has(Flags::ACK)
            && (self.client.isn + 1..=self.client.sent)
                .contains(&nearest(wire_ack, self.client.isn));
        let Some(server) = &mut self.server else {
            return match (rst, acks_syn) {
                (true, true) => {
                    self.reset = true;
                    Verdict::Refused
                }
                (true, false) => Verdict::Drop(DropReason::TcpRstOutOfWindow),
                (false, true) => PASS,
                (false, false) => Verdict::StaleServer,
            };
        };
        let seq = nearest(segment.seq, server.sent);
        if rst {
            if !self.shaken && acks_syn {
                self.reset = true;
                return PASS;
            }
            let verdict = rst_verdict(server, seq, window, &mut self.reset);
            let refused = matches!(verdict, Verdict::Drop(_));
            let of_nobody = segment.seq == 0 && !self.reset;
            let could_answer = segment.flags.has(Flags::ACK) && holds;
            return if could_answer && (refused || of_nobody) {
                Verdict::AnswersHeldSyn
            } else {
                verdict
            };
        }
        let fin = segment.flags.has(Flags::FIN);
        let end = seq + u64::from(segment.payload_len) + u64::from(fin);
        let ack = nearest(wire_ack, self.client.confirmed);
        let confirms = self.client.can_confirm(ack);
        let believed = self.client.would_take(ack, back);
        if !self.shaken && (end > seq || confirms && ack > self.client.confirmed) {
            self.shaken = true;
            if !server.plausible(end, window) {
                server.sent = seq;
                server.confirmed = seq;
                server.beyond = None;
            }
        }
        server.take(seq, end, fin, believed, window);
        let in_stream = (server.confirmed..=server.far(window)).contains(&seq);
        if confirms {
            self.client.confirmed = ack;
        } else if in_stream && self.shaken {
            self.client.confirm_beyond(ack, back);
        }
        self.client.check_end();
        server.check_end();
        PASS
    }

    fn numbers(&self) -> [u32; 4] {
        let (sent, confirmed) = self.server.as_ref().map_or((0, 0), |server| {
            (server.sent as u32, server.confirmed as u32)
        });
        [
            self.client.sent as u32,
            self.client.confirmed as u32,
            sent,
            confirmed,
        ]
    }
}

fn rst_verdict(stream: &Stream, seq: u64, window: u64, reset: &mut bool) -> Verdict {
    if seq == stream.sent || seq == stream.confirmed {
        *reset = true;
        PASS
    } else if (stream.confirmed..=stream.confirmed + window).contains(&seq) {
        PASS
    } else {
        Verdict::Drop(DropReason::TcpRstOutOfWindow)
    }
}

/// A number chosen by where it lies in a stream, so that edges are hit often.
#[derive(Clone, Debug)]
struct Spot {
    anchor: u8,
    offset: i32,
}

impl Spot {
    fn on(&self, stream: Option<&Stream>, window: u64) -> u32 {
        let base = stream.map_or(0, |stream| match self.anchor {
            0 => stream.isn,
            1..=4 => stream.sent,
            5..=7 => stream.confirmed,
            8 => stream.confirmed + window,
            9 => stream.sent + 65_535,
            _ => stream.sent + (1 << 31),
        });
        (base as u32).wrapping_add(self.offset as u32)
    }
}

#[derive(Clone, Debug)]
struct Op {
    direction: Direction,
    flags: Flags,
    seq: Spot,
    ack: Spot,
    payload_len: u32,
    scale: Option<u8>,
    reopen: bool,
}

fn spot() -> impl Strategy<Value = Spot> {
    let offset = prop_oneof![
        6 => Just(0),
        3 => -3i32..=3,
        1 => -70_000i32..=70_000,
        1 => any::<i32>(),
    ];
    (0u8..=10, offset).prop_map(|(anchor, offset)| Spot { anchor, offset })
}

fn op() -> impl Strategy<Value = Op> {
    let letters = prop_oneof![
        8 => Just("A"),
        4 => Just("PA"),
        3 => Just("FA"),
        2 => Just("S"),
        4 => Just("SA"),
        1 => Just("R"),
        1 => Just("RA"),
        1 => Just("FPA"),
    ]
    .prop_map(flags);
    let any_flags = any::<u8>().prop_map(Flags);
    (
        prop_oneof![Just(Direction::Forward), Just(Direction::Reverse)],
        prop_oneof![12 => letters, 1 => any_flags],
        spot(),
        spot(),
        prop_oneof![3 => Just(0u32), 2 => 1u32..1_461, 1 => 0u32..=65_495],
        prop::option::of(any::<u8>()),
        any::<bool>(),
    )
        .prop_map(
            |(direction, flags, seq, ack, payload_len, scale, reopen)| Op {
                direction,
                flags,
                seq,
                ack,
                payload_len,
                scale: scale.map(|scale| scale % 17),
                reopen,
            },
        )
}

fn numbers(entry: &Entry) -> [u32; 4] {
    [entry.c_next, entry.c_acked, entry.s_next, entry.s_acked]
}

fn compare_fast_path(
    before: &Entry,
    direction: Direction,
    segment: &Segment,
    after: &Entry,
    verdict: Verdict,
) {
    let mut fast = *before;
    if established_fast(&mut fast, direction, segment) {
        assert_eq!(verdict, PASS);
        assert_eq!(
            (numbers(&fast), fast.state, fast.flags),
            (numbers(after), after.state, after.flags)
        );
    } else {
        assert_eq!(
            (numbers(&fast), fast.state, fast.flags),
            (numbers(before), before.state, before.flags),
            "declined, so untouched"
        );
    }
}

fn check(
    isn: u32,
    delta: u32,
    scale: Option<u8>,
    payload_len: u32,
    held: bool,
    shake: Option<u32>,
    ops: &[Op],
) {
    let syn = Segment {
        flags: Flags::SYN,
        seq: isn,
        payload_len,
        window_scale: scale,
        ..Segment::default()
    };
    let mut model = Model::open(&syn, delta, held);
    let mut entry = fresh(delta);
    if held {
        entry.flags |= flag::SYN_HELD;
    }
    open(&mut entry, &syn);
    let mut run = |direction, segment: Segment, reopen| {
        let before = entry;
        let verdict = match direction {
            Direction::Forward => forward(&mut entry, &segment),
            Direction::Reverse => reverse(&mut entry, &segment),
        };
        let expected = model.step(direction, &segment);
        assert_eq!(verdict, expected, "{direction:?} {segment:?} in {before:?}");
        assert_eq!(
            entry.state,
            model.state(),
            "{direction:?} {segment:?} in {before:?}"
        );
        assert_eq!(
            numbers(&entry),
            model.numbers(),
            "{direction:?} {segment:?} in {before:?}"
        );
        compare_fast_path(&before, direction, &segment, &entry, verdict);
        if reopen && matches!(verdict, Verdict::Reuse | Verdict::NewAttempt) {
            open(&mut entry, &segment);
            model = Model::open(&segment, delta, held);
        }
        (
            model.client.clone(),
            model.server.clone(),
            model.window_of_client(),
            model.window_of_server(),
        )
    };

    let mut view = None;
    if let Some(server_isn) = shake {
        let syn_ack = Segment {
            flags: Flags::SYN | Flags::ACK,
            seq: server_isn,
            ack: isn.wrapping_add(1).wrapping_add(delta),
            window_scale: scale,
            ..Segment::default()
        };
        run(Direction::Reverse, syn_ack, false);
        let ack = Segment {
            flags: Flags::ACK,
            seq: isn.wrapping_add(1),
            ack: server_isn.wrapping_add(1),
            ..Segment::default()
        };
        view = Some(run(Direction::Forward, ack, false));
    }
    for op in ops {
        let (client, server, to_client, to_server) = match &view {
            Some((client, server, to_client, to_server)) => {
                (Some(client), server.as_ref(), *to_client, *to_server)
            }
            None => (None, None, 0, 0),
        };
        let (seq, ack) = match op.direction {
            Direction::Forward => (op.seq.on(client, to_server), op.ack.on(server, to_client)),
            Direction::Reverse => (
                op.seq.on(server, to_client),
                op.ack.on(client, to_server).wrapping_add(delta),
            ),
        };
        let segment = Segment {
            flags: op.flags,
            seq,
            ack,
            payload_len: op.payload_len,
            window_scale: op.scale.filter(|_| op.flags.has(Flags::SYN)),
            ..Segment::default()
        };
        view = Some(run(op.direction, segment, op.reopen));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_the_model_from_the_first_syn(
        isn: u32,
        delta: u32,
        scale in prop::option::of(0u8..=15),
        payload_len in prop_oneof![4 => Just(0u32), 1 => 1u32..1_400],
        held: bool,
        ops in prop::collection::vec(op(), 1..40),
    ) {
        check(isn, delta, scale, payload_len, held, None, &ops);
    }

    #[test]
    fn agrees_with_the_model_on_established_connections(
        isn in prop_oneof![any::<u32>(), u32::MAX - 5_000..=u32::MAX],
        server_isn in prop_oneof![any::<u32>(), u32::MAX - 5_000..=u32::MAX],
        delta: u32,
        scale in prop::option::of(0u8..=14),
        held: bool,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        check(isn, delta, scale, 0, held, Some(server_isn), &ops);
    }
}
