"""Configurations of other proxies that say the same as ours in `peers.py`, and where
the programs are. `.ci/peers` fetches Caddy and Traefik."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fairlead-tests"


def program_of(peer: str) -> str | None:
    """Where a peer's program is; None = it is not installed."""
    fetched = CACHE / "peers/bin" / peer
    return str(fetched) if fetched.exists() else shutil.which(peer)


def command_of(peer: str, program: str, file: Path) -> list[str]:
    """How it is run with a configuration."""
    return {
        "nginx": [program, "-p", str(file.parent), "-c", str(file)],
        "haproxy": [program, "-db", "-f", str(file)],
        "caddy": [program, "run", "--adapter", "caddyfile", "--config", str(file)],
        "traefik": [program, f"--configFile={file}"],
    }[peer]


NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/nginx.err;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;
  fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  proxy_http_version 1.1; proxy_set_header Connection "";
  absolute_redirect off; gzip_types text/plain; gzip_vary on; gzip_proxied any; gzip_min_length 256;
  split_clients "$request_id" $chosen {{ 20% two; * one; }}
  limit_req_zone $binary_remote_addr zone=few:1m rate=1r/m; limit_req_status 429;
  upstream one {{ server 127.0.0.1:{one}; }}
  upstream two {{ server 127.0.0.1:{two}; }}
  upstream dead {{ server 127.0.0.1:{dead}; }}
  server {{
    listen 127.0.0.1:{port};
    location /old {{ return 301 https://new.example$request_uri; }}
    location /edit {{
      proxy_set_header X-Env prod; proxy_set_header X-Debug ""; add_header X-Frame-Options DENY;
      proxy_pass http://one; }}
    location /app/ {{ proxy_pass http://one/; proxy_redirect / /app/; proxy_cookie_path / /app/; }}
    location /book/ {{ rewrite ^/book/([0-9]+)/(.*)$ /v2/$2/$1 break; proxy_pass http://one; }}
    location /staff {{
      auth_basic Staff; auth_basic_user_file {directory}/users; proxy_pass http://one; }}
    location /prose {{ gzip on; proxy_pass http://one; }}
    location /down {{ error_page 502 503 504 /sorry.html; proxy_pass http://dead; }}
    location = /sorry.html {{ internal; root {directory}; types {{ text/html html; }} }}
    location /closed {{ add_header Retry-After 3600 always; return 503 "{sorry}"; }}
    location /split {{ proxy_pass http://$chosen; }}
    location /limit {{ limit_req zone=few burst=2 nodelay; proxy_pass http://one; }}
    location /near {{ allow 127.0.0.0/8; deny all; proxy_pass http://one; }}
    location /far {{ allow 10.0.0.0/8; deny all; proxy_pass http://one; }}
    location /banned {{ deny 127.0.0.0/8; proxy_pass http://one; }}
    location /copied {{ mirror /copy; proxy_pass http://one; }}
    location = /copy {{ internal; proxy_pass http://two$request_uri; }}
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
  retries 0
userlist staff
  user ann password {hash}
frontend web
  bind 127.0.0.1:{port}
  http-request redirect prefix https://new.example code 301 if {{ path_beg /old }}
  http-request auth realm Staff if {{ path_beg /staff }} !{{ http_auth(staff) }}
  http-request deny if {{ path_beg /near }} !{{ src 127.0.0.0/8 }}
  http-request deny if {{ path_beg /far }} !{{ src 10.0.0.0/8 }}
  http-request deny if {{ path_beg /banned }} {{ src 127.0.0.0/8 }}
  use_backend token if {{ path_beg /token }}
  use_backend spoken if {{ path_beg /spoken }}
  acl closed path_beg /closed
  use_backend closed if closed
  use_backend edit if {{ path_beg /edit }}
  use_backend app if {{ path_beg /app }}
  use_backend book if {{ path_beg /book/ }}
  use_backend prose if {{ path_beg /prose }}
  use_backend down if {{ path_beg /down }}
  use_backend two if {{ path_beg /split }} {{ rand(100) lt 20 }}
  use_backend both if {{ path_beg /sticky }}
  use_backend limit if {{ path_beg /limit }}
  default_backend one
backend one
  server one 127.0.0.1:{one}
backend two
  server two 127.0.0.1:{two}
backend edit
  http-request set-header X-Env prod
  http-request del-header X-Debug
  http-response add-header X-Frame-Options DENY
  server one 127.0.0.1:{one}
backend app
  http-request replace-path /app/(.*) /\\\\1
  http-response replace-header Location ^/(.*) /app/\\\\1
  http-response replace-header Set-Cookie (.*)Path=/(.*) \\\\1Path=/app\\\\2
  server one 127.0.0.1:{one}
backend book
  http-request replace-path /book/([0-9]+)/(.*) /v2/\\\\2/\\\\1
  server one 127.0.0.1:{one}
backend prose
  compression algo gzip
  compression type text/plain
  server one 127.0.0.1:{one}
backend down
  errorfile 503 {directory}/sorry.http
  server dead 127.0.0.1:{dead}
backend closed
  http-request return status 503 content-type text/html string "{sorry}" hdr Retry-After 3600
backend both
  cookie SRV insert indirect nocache
  server one 127.0.0.1:{one} cookie one
  server two 127.0.0.1:{two} cookie two
backend limit
  stick-table type ip size 1k expire 60s store http_req_rate(60s)
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 3 }}
  server one 127.0.0.1:{one}
backend token
  http-request set-var(txn.token) http_auth_bearer
  http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless {{ var(txn.alg) -m str ES256 }}
  acl signed var(txn.token),jwt_verify(txn.alg,"{directory}/key.pem") 1
  http-request deny deny_status 401 unless signed
  http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
  http-request set-header X-User %[var(txn.token),jwt_payload_query('$.sub')]
  server one 127.0.0.1:{one}
backend spoken
  server spoken 127.0.0.1:{spoken} send-proxy
listen passed
  mode tcp
  bind 127.0.0.1:{tcp}
  server passed 127.0.0.1:{passed} send-proxy
"""

CADDY = """
{{
  admin off
  auto_https off
  persist_config off
}}
:{port} {{
  bind 127.0.0.1
  handle /old* {{
    redir https://new.example{{uri}} 301
  }}
  handle /edit* {{
    header +X-Frame-Options DENY
    reverse_proxy 127.0.0.1:{one} {{
      header_up X-Env prod
      header_up -X-Debug
    }}
  }}
  handle_path /app/* {{
    reverse_proxy 127.0.0.1:{one} {{
      header_down Location ^/(.*) /app/$1
      header_down Set-Cookie Path=/ Path=/app
    }}
  }}
  handle /book/* {{
    @book path_regexp book ^/book/([0-9]+)/(.*)$
    rewrite @book /v2/{{re.book.2}}/{{re.book.1}}?{{query}}
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /staff* {{
    basic_auth bcrypt Staff {{
      ann {hash}
    }}
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /prose* {{
    encode gzip
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /down* {{
    reverse_proxy 127.0.0.1:{dead}
  }}
  handle /closed* {{
    header Retry-After 3600
    respond "{sorry}" 503
  }}
  handle /split* {{
    reverse_proxy 127.0.0.1:{one} 127.0.0.1:{two} {{
      lb_policy weighted_round_robin 80 20
    }}
  }}
  handle /sticky* {{
    reverse_proxy 127.0.0.1:{one} 127.0.0.1:{two} {{
      lb_policy cookie srv secret
    }}
  }}
  handle /asked* {{
    forward_auth 127.0.0.1:{two} {{
      uri /verify
      copy_headers X-User
    }}
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /near* {{
    @elsewhere not remote_ip 127.0.0.0/8
    respond @elsewhere 403
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /far* {{
    @elsewhere not remote_ip 10.0.0.0/8
    respond @elsewhere 403
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /banned* {{
    @here remote_ip 127.0.0.0/8
    respond @here 403
    reverse_proxy 127.0.0.1:{one}
  }}
  handle /spoken* {{
    reverse_proxy 127.0.0.1:{spoken} {{
      transport http {{
        proxy_protocol v1
      }}
    }}
  }}
  handle_errors {{
    root * {directory}
    rewrite * /sorry.html
    file_server
  }}
}}
"""

TRAEFIK = """
entryPoints:
  web: {{address: "127.0.0.1:{port}", asDefault: true}}
  tcp: {{address: "127.0.0.1:{tcp}"}}
providers: {{file: {{filename: {directory}/routes.yaml}}}}
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
"""
TRAEFIK_ROUTES = """
http:
  routers:
    old: {{rule: "PathPrefix(`/old`)", service: one, middlewares: [old]}}
    edit: {{rule: "PathPrefix(`/edit`)", service: one, middlewares: [edit]}}
    app: {{rule: "PathPrefix(`/app`)", service: one, middlewares: [app]}}
    book: {{rule: "PathPrefix(`/book/`)", service: one, middlewares: [book]}}
    staff: {{rule: "PathPrefix(`/staff`)", service: one, middlewares: [staff]}}
    prose: {{rule: "PathPrefix(`/prose`)", service: one, middlewares: [prose]}}
    down: {{rule: "PathPrefix(`/down`)", service: dead, middlewares: [down]}}
    split: {{rule: "PathPrefix(`/split`)", service: split}}
    sticky: {{rule: "PathPrefix(`/sticky`)", service: both}}
    limit: {{rule: "PathPrefix(`/limit`)", service: one, middlewares: [limit]}}
    asked: {{rule: "PathPrefix(`/asked`)", service: one, middlewares: [asked]}}
    near: {{rule: "PathPrefix(`/near`)", service: one, middlewares: [near]}}
    far: {{rule: "PathPrefix(`/far`)", service: one, middlewares: [far]}}
    pages: {{rule: "PathPrefix(`/pages`)", service: one, middlewares: [pages]}}
    copied: {{rule: "PathPrefix(`/copied`)", service: copied}}
  middlewares:
    old:
      redirectRegex:
        {{regex: "^[^/]*//[^/]*(.*)", replacement: "https://new.example$1", permanent: true}}
    edit:
      headers:
        customRequestHeaders: {{X-Env: prod, X-Debug: ""}}
        customResponseHeaders: {{X-Frame-Options: DENY}}
    app: {{stripPrefix: {{prefixes: [/app]}}}}
    book:
      replacePathRegex: {{regex: "^/book/([0-9]+)/(.*)$", replacement: "/v2/$2/$1"}}
    staff: {{basicAuth: {{realm: Staff, users: ['ann:{hash}']}}}}
    prose:
      compress: {{encodings: [gzip], includedContentTypes: [text/plain], minResponseBodyBytes: 256}}
    down: {{errors: {{status: ["502-504"], service: one, query: /sorry.html}}}}
    limit: {{rateLimit: {{average: 1, period: 60s, burst: 3}}}}
    asked:
      forwardAuth: {{address: "http://127.0.0.1:{two}/verify", authResponseHeaders: [X-User]}}
    near: {{ipAllowList: {{sourceRange: [127.0.0.0/8]}}}}
    far: {{ipAllowList: {{sourceRange: [10.0.0.0/8]}}}}
    pages:
      headers:
        accessControlAllowOriginList: ["https://app.example"]
        accessControlAllowMethods: [GET, PUT]
        accessControlAllowHeaders: [X-Token]
        accessControlExposeHeaders: [X-Total]
        accessControlAllowCredentials: true
        accessControlMaxAge: 600
        addVaryHeader: true
  services:
    one: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{one}"}}]}}}}
    two: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{two}"}}]}}}}
    dead: {{loadBalancer: {{servers: [{{url: "http://127.0.0.1:{dead}"}}]}}}}
    split: {{weighted: {{services: [{{name: one, weight: 80}}, {{name: two, weight: 20}}]}}}}
    both:
      loadBalancer:
        sticky: {{cookie: {{name: srv}}}}
        servers: [{{url: "http://127.0.0.1:{one}"}}, {{url: "http://127.0.0.1:{two}"}}]
    copied: {{mirroring: {{service: one, mirrors: [{{name: two, percent: 100}}]}}}}
tcp:
  routers:
    passed: {{rule: "HostSNI(`*`)", entryPoints: [tcp], service: passed}}
  services:
    passed:
      loadBalancer: {{proxyProtocol: {{version: 1}}, servers: [{{address: "127.0.0.1:{passed}"}}]}}
"""

CONFIGURATIONS = {
    "nginx": {"nginx.conf": NGINX},
    "haproxy": {"haproxy.conf": HAPROXY},
    "caddy": {"Caddyfile": CADDY},
    "traefik": {"traefik.yaml": TRAEFIK, "routes.yaml": TRAEFIK_ROUTES},
}
"""Files of each; it is started with the first."""
