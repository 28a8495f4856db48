use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    clients: 4,
    head: 2048,
    request: Duration::from_millis(300),
    response: Duration::from_millis(300),
};

const PATIENT: Limits = Limits {
    request: Duration::from_secs(60),
    response: Duration::from_secs(60),
    ..LIMITS
};

const ASK: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: fullgate\r\n\r\n";

fn start(limits: Limits, body: &'static str, times: usize) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let source = Arc::new(move || Some(body.repeat(times)));
    Server::start(listener, limits, source).expect("started")
}

fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.addr()).expect("connected")
}

/// All that the server says; empty where it resets the connection.
fn heard(mut client: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = client.read_to_end(&mut text);
    String::from_utf8(text).expect("text")
}

fn ask(server: &Server, request: &[u8]) -> String {
    let mut client = connect(server);
    client.write_all(request).expect("written");
    heard(client)
}

#[test]
fn the_metrics_are_served() {
    let server = start(PATIENT, "a 1\n", 1);
    let expected = "HTTP/1.1 200 OK\r\n\
                    Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                    Content-Length: 4\r\nConnection: close\r\n\r\na 1\n";
    assert_eq!(ask(&server, ASK), expected);
    // In pieces, and with what Prometheus sends along.
    let mut client = connect(&server);
    for byte in b"GET /metrics?x=1 HTTP/1.1\r\nHost: [::1]:9091\r\nUser-Agent: Prometheus/2.42\r\n\
                  Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\n\r\n"
    {
        client.write_all(&[*byte]).expect("written");
    }
    assert_eq!(heard(client), expected);
}

#[test]
fn requests_and_their_answers() {
    let rows: &[(&str, Result<(), Status>)] = &[
        ("GET /metrics HTTP/1.0\r\n", Ok(())),
        ("GET /metrics HTTP/1.1\r\nhost:x\r\n", Ok(())),
        ("GET http://x:1/metrics HTTP/1.1\r\nHost: x:1\r\n", Ok(())),
        ("GET /metrics HTTP/1.0\r\nContent-Length: 0\r\n", Ok(())),
        ("GET / HTTP/1.0\r\n", Err(Status::NotFound)),
        ("GET /metrics/ HTTP/1.0\r\n", Err(Status::NotFound)),
        ("GET /../metrics HTTP/1.0\r\n", Err(Status::NotFound)),
        ("OPTIONS * HTTP/1.0\r\n", Err(Status::NotFound)),
        ("HEAD /metrics HTTP/1.0\r\n", Err(Status::NotAllowed)),
        ("POST /metrics HTTP/1.0\r\n", Err(Status::NotAllowed)),
        ("get /metrics HTTP/1.0\r\n", Err(Status::NotAllowed)),
        ("GET /metrics HTTP/2.0\r\n", Err(Status::Version)),
        ("GET /metrics HTTP/1.1\r\n", Err(Status::BadRequest)),
        (
            "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
            Err(Status::BadRequest),
        ),
        ("GET /metrics\r\n", Err(Status::BadRequest)),
        ("GET  /metrics HTTP/1.0\r\n", Err(Status::BadRequest)),
        ("GET /metrics HTTP/1.0 \r\n", Err(Status::BadRequest)),
        ("GET metrics HTTP/1.0\r\n", Err(Status::BadRequest)),
        ("GET http://x HTTP/1.0\r\n", Err(Status::BadRequest)),
        ("G(T /metrics HTTP/1.0\r\n", Err(Status::BadRequest)),
        (
            "GET /metrics HTTP/1.0\r\nA b: c\r\n",
            Err(Status::BadRequest),
        ),
        (
            "GET /metrics HTTP/1.0\r\nA: b\r\n c\r\n",
            Err(Status::BadRequest),
        ),
        (
            "GET /metrics HTTP/1.0\r\nA: b\nHost: c\r\n",
            Err(Status::BadRequest),
        ),
        (
            "GET /metrics HTTP/1.0\r\nA: b\rc\r\n",
            Err(Status::BadRequest),
        ),
        ("GET /metrics HTTP/1.0\r\nA\r\n", Err(Status::BadRequest)),
        (
            "GET /metrics HTTP/1.0\r\nContent-Length: 5\r\n",
            Err(Status::BadRequest),
        ),
        (
            "GET /metrics HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
            Err(Status::BadRequest),
        ),
        ("\r\n", Err(Status::BadRequest)),
    ];
    for (head, expected) in rows {
        assert_eq!(check(head.as_bytes()), *expected, "{head:?}");
    }
    assert_eq!(
        check(b"GET /metrics HTTP/1.0\r\nA: \xff\r\n"),
        Err(Status::BadRequest)
    );
}

#[test]
fn refusals_say_what_would_be_right() {
    let server = start(PATIENT, "a 1\n", 1);
    let answer = ask(&server, b"POST /metrics HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("\r\nAllow: GET\r\n"), "{answer}");
    let answer = ask(&server, b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.ends_with("try GET /metrics\n"), "{answer}");
    let answer = ask(&server, b"\x16\x03\x01\x02\x00\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn an_endless_header_is_cut_off() {
    let server = start(PATIENT, "a 1\n", 1);
    let mut request = b"GET /metrics HTTP/1.0\r\nA: ".to_vec();
    request.resize(PATIENT.head + 1, b'a');
    let answer = ask(&server, &request);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let mut client = connect(&server);
    let mut sent = 0;
    while sent < 1 << 30 {
        match client.write(&[b'a'; 64 * 1024]) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    // Whatever the socket buffers took, far less than was meant.
    assert!(sent < 64 << 20, "{sent} bytes went in");
    assert!(ask(&server, ASK).starts_with("HTTP/1.1 200 "));
}

#[test]
fn slow_clients_are_told_and_delay_nobody() {
    let server = start(LIMITS, "a 1\n", 1);
    let mut silent = Vec::new();
    for part in [
        &b""[..],
        b"GET /met",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n",
    ] {
        let mut client = connect(&server);
        client.write_all(part).expect("written");
        silent.push(client);
    }
    assert!(ask(&server, ASK).starts_with("HTTP/1.1 200 "));
    let answers: Vec<String> = silent.into_iter().map(heard).collect();
    assert_eq!(answers[0], "", "who said nothing is told nothing");
    for answer in &answers[1..] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[test]
fn who_takes_no_answer_is_closed() {
    let (line, lines) = ("a_long_line_for_a_metric 1\n", 1 << 20);
    let server = start(LIMITS, line, lines);
    let mut deaf = connect(&server);
    deaf.write_all(ASK).expect("written");
    // The time it has for the answer runs since before the first byte.
    deaf.peek(&mut [0]).expect("the begin of an answer");
    std::thread::sleep(LIMITS.response * 3);
    let mut taken = Vec::new();
    let _ = deaf.read_to_end(&mut taken);
    assert!(taken.len() < line.len() * lines, "{} bytes", taken.len());
}

/// Whether a scrape is answered, and within a second.
fn scraped(server: &Server) -> bool {
    let begun = Instant::now();
    ask(server, ASK).starts_with("HTTP/1.1 200 ") && begun.elapsed() < Duration::from_secs(1)
}

#[test]
fn slow_clients_cost_nobody_a_scrape() {
    let server = start(PATIENT, "a_long_line_for_a_metric 1\n", 1 << 12);
    let mut slow = Vec::new();
    for (round, part) in [&b""[..], b"GET /met", ASK].into_iter().cycle().enumerate() {
        if round == 60 {
            break;
        }
        let mut client = connect(&server);
        let _ = client.write_all(part);
        slow.push((client, part));
        assert!(scraped(&server), "after {round} slow clients");
    }
    // All but the last few have made room, and most of them know why.
    for (client, part) in slow.drain(..60 - PATIENT.clients) {
        if part != ASK {
            let heard = heard(client);
            assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 503 "));
        }
    }
}

#[test]
fn who_takes_no_answer_makes_room() {
    let (line, lines) = ("a_long_line_for_a_metric 1\n", 1 << 20);
    let server = start(PATIENT, line, lines);
    let mut deaf = connect(&server);
    deaf.write_all(ASK).expect("written");
    deaf.peek(&mut [0]).expect("the begin of an answer");
    // One more than there are places beside it.
    let _silent: Vec<TcpStream> = (0..PATIENT.clients).map(|_| connect(&server)).collect();
    let taken = heard(deaf);
    assert!(taken.len() < line.len() * lines, "{} bytes", taken.len());
}

#[test]
fn who_drips_loses_the_place_too() {
    let server = start(PATIENT, "a 1\n", 1);
    let mut dripping: Vec<TcpStream> = (0..PATIENT.clients).map(|_| connect(&server)).collect();
    for byte in ASK.iter().take(20) {
        for client in &mut dripping {
            let _ = client.write_all(&[*byte]);
        }
        assert!(scraped(&server));
    }
}

#[test]
fn many_requests_at_once_are_answered_with_few_expositions() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let source = Arc::new(move || {
        std::thread::sleep(Duration::from_millis(200));
        Some(format!("a {}\n", count.fetch_add(1, Ordering::Relaxed)))
    });
    let limits = Limits {
        clients: 64,
        ..PATIENT
    };
    let server = Server::start(listener, limits, source).expect("started");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(|| ask(&server, ASK))).collect();
        for client in clients {
            let answer = client.join().expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    });
    let made = made.load(Ordering::Relaxed);
    assert!(made < 10, "{made} expositions for 30 requests");
}

#[test]
fn a_stopped_server_refuses() {
    let server = start(PATIENT, "a 1\n", 1);
    let addr = server.addr();
    drop(server);
    assert!(TcpStream::connect(addr).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Damage anywhere in a request gives a refusal or, where it changes
    /// nothing, the metrics; never a panic.
    #[test]
    fn damage_is_survived(at in 0..60_usize, bytes in prop::collection::vec(any::<u8>(), 1..6)) {
        let mut request = b"GET /metrics HTTP/1.1\r\nHost: fullgate\r\nAccept: */*\r\n".to_vec();
        let at = at.min(request.len());
        let end = (at + bytes.len()).min(request.len());
        request.splice(at..end, bytes);
        if check(&request).is_ok() {
            prop_assert!(request.starts_with(b"GET "));
        }
    }

    #[test]
    fn noise_is_no_request(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(check(&noise).is_err());
    }
}
