//! A small blocking HTTP/1.1 client over plain TCP: what the factory needs to push images and what tests need to ask a
//! published port. One request per connection; no TLS, no redirects.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Header names in lower case; of repeated headers the last one counts.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the body as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Where a request's body comes from; its length must be known before the first byte is sent.
#[expect(missing_debug_implementations, reason = "a reader has nothing to show")]
pub struct Body<'a> {
    pub length: u64,
    pub reader: &'a mut dyn Read,
}

/// Sends one request to `address` and reads the whole answer.
///
/// `timeout` bounds the connect and each single read and write, not the whole exchange.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<Body<'_>>,
    timeout: Duration,
) -> anyhow::Result<Response> {
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        write!(head, "Host: {address}\r\n")?;
    }
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    match &body {
        Some(body) => write!(head, "Content-Length: {}\r\n", body.length)?,
        None if method != "GET" && method != "HEAD" => head.push_str("Content-Length: 0\r\n"),
        None => {}
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if let Some(body) = body {
        let sent = io::copy(&mut body.reader.take(body.length), &mut stream)?;
        if sent != body.length {
            bail!("the body of {method} {target} ended after {sent} of {} bytes", body.length);
        }
    }
    read_response(BufReader::new(stream), method == "HEAD")
        .with_context(|| format!("{method} http://{address}{target}"))
}

/// Asks for `target` by GET.
pub fn get(address: SocketAddr, target: &str) -> anyhow::Result<Response> {
    request(address, "GET", target, &[], None, Duration::from_secs(10))
}

/// Posts `body` to `target`.
pub fn post(address: SocketAddr, target: &str, content_type: &str, body: &str) -> anyhow::Result<Response> {
    request(
        address,
        "POST",
        target,
        &[("Content-Type", content_type)],
        Some(Body { length: body.len() as u64, reader: &mut body.as_bytes() }),
        Duration::from_secs(10),
    )
}

fn read_response(mut reader: impl BufRead, head_only: bool) -> anyhow::Result<Response> {
    loop {
        let response = read_one(&mut reader, head_only)?;
        // 100 Continue and its kind announce the real answer.
        if response.status >= 200 {
            return Ok(response);
        }
    }
}

fn read_one(reader: &mut impl BufRead, head_only: bool) -> anyhow::Result<Response> {
    let status_line = read_line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse::<u16>().ok())
        .with_context(|| format!("not an HTTP status line: {status_line:?}"))?;
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let mut body = Vec::new();
    if head_only || status < 200 || status == 204 || status == 304 {
        return Ok(Response { status, headers, body });
    }
    if headers.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(reader)?;
            let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                .with_context(|| format!("bad chunk size {line:?}"))?;
            if size == 0 {
                while !read_line(reader)?.is_empty() {}
                break;
            }
            let got = reader.take(size).read_to_end(&mut body)?;
            if got as u64 != size {
                bail!("the body ended inside a chunk");
            }
            read_line(reader)?;
        }
    } else if let Some(length) = headers.get("content-length") {
        let length: u64 = length.parse().context("bad Content-Length")?;
        let got = reader.take(length).read_to_end(&mut body)?;
        if got as u64 != length {
            bail!("the body ended after {got} of {length} bytes");
        }
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Response { status, headers, body })
}

fn read_line(reader: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = Vec::new();
    reader.take(64 * 1024).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        bail!("the connection ended before the end of a header line");
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).context("a header line is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Response> {
        read_response(text.as_bytes(), false)
    }

    #[test]
    fn chunks_are_joined() {
        let answer = parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
        assert_eq!(answer.expect("a valid answer").text(), "abcde");
    }

    #[test]
    fn a_short_body_is_an_error() {
        assert!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").is_ok());
    }

    #[test]
    fn interim_answers_are_skipped() {
        let answer =
            parse("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n").expect("a valid answer");
        assert_eq!((answer.status, answer.headers["x-a"].as_str()), (204, "b"));
    }
}
