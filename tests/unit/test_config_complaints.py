# ruff: noqa: E501 - the expected lines are whole, as `fairlead check` prints them
"""Bad files and exactly what is said about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.catalog import BALANCERS, CHECKS, PROVIDERS
from proxy.settings.access_log import FIELDS, AccessLogSettings
from proxy.settings.complaints import ConfigError
from proxy.settings.declare import keys_of
from proxy.settings.file import File
from proxy.settings.listener import ListenerSettings
from proxy.settings.load import load, parse
from proxy.settings.route import RouteSpec
from proxy.settings.service import PoolSettings, Timeouts

SECTIONS = (AccessLogSettings, File, ListenerSettings, PoolSettings, RouteSpec, Timeouts)
NAMES = {
    "%FIELDS": FIELDS,
    "%BALANCERS": (*BALANCERS, "package.module:Class"),
    "%CHECKS": (*CHECKS, "package.module:Class"),
    "%PROVIDERS": (*PROVIDERS, "package.module:Class"),
    **{f"%KEYS:{section.__name__}": tuple(sorted(keys_of(section))) for section in SECTIONS},
}
"""Words of the table below for what a new plug-in, or a new key, adds to."""

ENVIRON = {"WORDS": "two words", "MAPPING": "{bind: 127.0.0.1:1}", "EMPTY": ""}

# === name of the case, the file, --->, all complaints about it
TABLE = r"""
=== syntax
routes: [
--->
proxy.yaml:2: not valid YAML: expected the node content, but found '<stream end>'
=== hedges
services:
  a: {hedge: {after: p100, max_share: 2}}
  b: {hedge: {after: 0s}}
  c: {hedge: {}, sticky: {}}
  d: {retry: off, hedge: {after: 50ms}}
  e: {hedge: off, retry: off, sticky: {}}
routes: [{service: a}]
--->
proxy.yaml:2: services.a.hedge.after: "p100" is not a duration; allowed: p50 to p99, or a duration such as 50ms of at least 1ms
proxy.yaml:2: services.a.hedge.max_share: "2" is out of range; allowed: a number from 0 to 1
proxy.yaml:3: services.b.hedge.after: "0s" is too short; allowed: p50 to p99, or a duration such as 50ms of at least 1ms
proxy.yaml:4: services.c.hedge: asks a second instance, which sticky forbids; allowed: hedge: off, or the other
proxy.yaml:5: services.d.hedge: asks a second instance, which retry: off forbids; allowed: hedge: off, or the other
=== user_of_nobody
user: no-such-user
routes: [{service: a}]
--->
proxy.yaml:1: user: "no-such-user" names a user that this machine does not have; allowed: user or user:group, by names or by numbers, or "" for no other
=== user_with_a_group_of_nobody
user: root:no-such-group
routes: [{service: a}]
--->
proxy.yaml:1: user: "root:no-such-group" names a group that this machine does not have; allowed: user or user:group, by names or by numbers, or "" for no other
=== user_without_a_name
user: ":root"
routes: [{service: a}]
--->
proxy.yaml:1: user: ":root" is not a user; allowed: user or user:group, by names or by numbers, or "" for no other
=== user_by_a_number_alone
user: "4000000001"
routes: [{service: a}]
--->
proxy.yaml:1: user: "4000000001" has no group on this machine, which does not know it; allowed: user or user:group, by names or by numbers, or "" for no other
=== user_too_large
user: "4294967295:0"
routes: [{service: a}]
--->
proxy.yaml:1: user: "4294967295:0" has too large a user id; allowed: user or user:group, by names or by numbers, or "" for no other
=== dashboard_for_everybody
filters: {stamp: {headers: {response: {set: {X-A: b}}}}, login: {"tests.support.filters:Scripted": {}}}
routes:
  - {host: a, service: "@dashboard"}
  - {host: b, service: "@dashboard", filters: [stamp, login]}
  - {host: c, service: "@dash"}
  - {host: d, split: [{service: "@dashboard"}]}
--->
proxy.yaml:3: routes.0.service: "@dashboard" would be there for everybody; allowed: with a filter that finds out who asks, such as basic_auth, forward_auth, jwt
proxy.yaml:4: routes.1.service: "@dashboard" would be there for everybody; allowed: with a filter that finds out who asks, such as basic_auth, forward_auth, jwt
proxy.yaml:5: routes.2.service: "@dash" is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -
proxy.yaml:6: routes.3.split.0.service: "@dashboard" is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -
=== dashboard_that_cannot_be_had
admin: {bind: "127.0.0.1:0"}
filters: {login: {forward_auth: {url: "http://127.0.0.1:1/"}}}
routes:
  - {host: a, service: "@dashboard", filters: [login], methods: [GET, POST], set_host: x}
--->
proxy.yaml:4: routes.0.methods: change something; allowed: GET and HEAD
proxy.yaml:4: routes.0.service: needs a port of the admin server's own; allowed: beside admin.bind with one
proxy.yaml:4: routes.0.set_host: is the admin server's; allowed: no such key here
=== unquoted_template
routes:
  - {path_prefix: /{service}}
--->
proxy.yaml:2: not valid YAML: expected ',' or '}', but got '{'; text with { or } must be quoted, as in "/{service}" or "${NAME}"
=== unquoted_wildcard
routes:
  - host: *.example.com
    service: a
--->
proxy.yaml:2: not valid YAML: expected alphabetic or numeric character, but found '.'; text that begins with * must be quoted, as in "*.example.com"
=== undefined_alias
routes: *missing
--->
proxy.yaml:1: not valid YAML: found undefined alias 'missing'; text that begins with * must be quoted, as in "*.example.com"
=== two_documents
routes: [{service: a}]
---
routes: [{service: a}]
--->
proxy.yaml:2: not valid YAML: it holds a second document; allowed: one, without a --- line inside
=== keys_that_would_drive_a_terminal
"a\n\e[2J": 1
routes: [{service: a, headers: {"X-\uD800": b}}]
services: {"\u202Eb": {}}
listeners: [{bind: "unix:/\uD800"}]
--->
proxy.yaml:1: a\n\x1b[2J: is not a known key; allowed: %KEYS:File
proxy.yaml:2: routes.0.headers.X-\ud800: "X-\ud800" is not a field name; allowed: a name such as X-Beta
proxy.yaml:3: services.\u202eb: is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -, as in a registry key
proxy.yaml:4: listeners.0.bind: "unix:/\ud800" holds characters that cannot be printed; allowed: host:port, [IPv6]:port or unix:/path
=== list_at_the_top
- routes
--->
proxy.yaml:1: is a list at the top; allowed: a mapping
=== text_at_the_top
hello
--->
proxy.yaml:1: is "hello" at the top; allowed: a mapping
=== duplicate_key
workers: 1
routes: [{service: a}]
workers: 2
--->
proxy.yaml:3: workers: stands here a second time (first in line 1); allowed: once
=== duplicate_key_below
admin:
  bind: 127.0.0.1:9900
  bind: 127.0.0.1:9901
routes: [{service: a}]
--->
proxy.yaml:3: admin.bind: stands here a second time (first in line 2); allowed: once
=== merge_key
defaults: &d {retry: off}
services:
  a:
    <<: *d
routes: [{service: a}]
--->
proxy.yaml:4: services.a.<<: merge keys (<<) are not supported; allowed: write the settings out, or put them under defaults, which every service inherits
=== tag
workers: !!python/name:os.system 1
routes: [{service: a}]
--->
proxy.yaml:1: workers: has the YAML tag tag:yaml.org,2002:python/name:os.system; allowed: no tag
=== list_as_key
? [a]
: b
routes: [{service: a}]
--->
proxy.yaml:1: has a key that is a list or a mapping; allowed: text
=== unknown_key
lissteners: []
routes: [{service: a}]
--->
proxy.yaml:1: lissteners: is not a known key (did you mean "listeners"?); allowed: %KEYS:File
=== unknown_key_far_from_all
zzz: 1
routes: [{service: a}]
--->
proxy.yaml:1: zzz: is not a known key; allowed: %KEYS:File
=== unknown_key_below
services:
  a:
    timeouts: {conect: 3s}
routes: [{service: a}]
--->
proxy.yaml:3: services.a.timeouts.conect: is not a known key (did you mean "connect"?); allowed: %KEYS:Timeouts
=== unknown_key_in_defaults
defaults:
  instances: []
routes: [{service: a}]
--->
proxy.yaml:2: defaults.instances: is not a known key (did you mean "fallback_instances"?); allowed: %KEYS:PoolSettings
=== unknown_key_in_route
routes:
  - {service: a, path_prefx: /a}
--->
proxy.yaml:2: routes.0.path_prefx: is not a known key (did you mean "path_prefix"?); allowed: %KEYS:RouteSpec
=== several_in_a_route
routes:
  - {service: a, host: a, hosts: [b]}
  - {service: a, paths: ["/{service}"]}
  - {hosts: ["{service}.a"], service: a}
  - {path: /x, path_prefix: "/{service}"}
  - {path: /x, strip_prefix: true, service: a}
--->
proxy.yaml:2: routes.0.hosts: stands beside host; allowed: one of the two
proxy.yaml:3: routes.1.paths.0: "/{service}" holds braces; allowed: a path such as /healthz
proxy.yaml:4: routes.2.hosts.0: holds {service}; allowed: as host of its own route
proxy.yaml:5: routes.3.path_prefix: holds {service} beside exact paths; allowed: one of the two
proxy.yaml:6: routes.4.strip_prefix: has no prefix to act on; allowed: with path_prefix
=== aims_of_a_route
routes:
  - {service: a, split: [{service: b}]}
  - {path: /a, split: [{service: b, weight: 0}]}
  - {path: /b, redirect: {to: "ftp://x"}}
  - {path: /c, redirect: {to: "//evil.example"}}
  - {path: /d, redirect: {to: "/{query}", status: 303}}
  - {path: /e, respond: {status: 204, body: x, headers: {Connection: close}}}
  - {path: /f, respond: 99}
  - {path_prefix: "/{service}", respond: 404}
  - {path_prefix: /g, redirect: {to: "/{path}"}}
  - {path_prefix: /h, redirect: {to: '/\\evil.example'}}
--->
proxy.yaml:2: routes.0.split: stands beside service; allowed: one of the two
proxy.yaml:3: routes.1.split: has no weight above 0; allowed: at least one
proxy.yaml:4: routes.2.redirect.to: "ftp://x" is neither a URL nor a path; allowed: https://new.example.com{path}, or a path such as /new
proxy.yaml:5: routes.3.redirect.to: "//evil.example" is neither a URL nor a path; allowed: https://new.example.com{path}, or a path such as /new
proxy.yaml:6: routes.4.redirect.status: "303" is not a status of a redirect; allowed: 301, 302, 307 or 308
proxy.yaml:6: routes.4.redirect.to: "/{query}" holds braces that are neither {host} nor {path}; allowed: https://new.example.com{path}, or a path such as /new
proxy.yaml:7: routes.5.respond.body: has no place in an answer of 204; allowed: another status, or no body
proxy.yaml:7: routes.5.respond.headers.Connection: Connection is the proxy's own; allowed: others
proxy.yaml:8: routes.6.respond: "99" is out of range; allowed: a whole number from 200 to 599
proxy.yaml:9: routes.7.respond: stands beside a {service} template; allowed: one of the two
proxy.yaml:10: routes.8.redirect.to: "/{path}" is neither a URL nor a path; allowed: https://new.example.com{path}, or a path such as /new
proxy.yaml:11: routes.9.redirect.to: "/\\evil.example" holds characters that a URL must have percent-encoded; allowed: https://new.example.com{path}, or a path such as /new
=== client_close
listeners:
  - {client_close: half-close}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.client_close: "half-close" is not what a client's close may mean (did you mean "half_close"?); allowed: abort, half_close
=== number_as_key
listeners:
  - {1: 2}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.1: is not a known key; allowed: %KEYS:ListenerSettings
=== empty_section
admin:
routes: [{service: a}]
--->
proxy.yaml:1: admin: is empty; allowed: a mapping, or leave the key out
=== client_ip_without_a_field
listeners:
  - {client_ip: {header: X_Real_IP, hops: -1}}
  - {name: b, bind: "127.0.0.1:1", client_ip: X-Real-IP}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.client_ip.header: "X_Real_IP" holds _, and fields with _ are dropped from requests; allowed: the name of a field, such as X-Forwarded-For
proxy.yaml:2: listeners.0.client_ip.hops: "-1" is out of range; allowed: a whole number from 0 to 32 (0 = up to the first address that is not in trusted_proxies)
proxy.yaml:3: listeners.1.client_ip: is "X-Real-IP"; allowed: a mapping
=== paths_changed_and_as_received
routes:
  - {service: a, path_prefix: /a, strip_prefix: true, forward_path: received}
  - {service: a, path_prefix: /b, rewrite_prefix: /c, forward_path: received, encoded_slashes: decode}
  - {service: a, forward_path: as_it_came}
--->
proxy.yaml:2: routes.0.forward_path: "received" stands beside strip_prefix, which changes the path; allowed: one of the two
proxy.yaml:3: routes.1.encoded_slashes: "decode" is not a way to treat encoded slashes; allowed: pass, refuse
proxy.yaml:3: routes.1.forward_path: "received" stands beside rewrite_prefix, which changes the path; allowed: one of the two
proxy.yaml:4: routes.2.forward_path: "as_it_came" is not a way to forward paths; allowed: normalised, received
=== request_id_header
listeners:
  - {request_id_header: X Y}
  - {name: b, bind: "127.0.0.1:1", request_id_header: Host}
  - {name: c, bind: "127.0.0.1:2", request_id_header: X_Request_ID}
  - {name: d, bind: "127.0.0.1:3", request_id_header: X-From, client_ip: {header: x-from}}
  - {name: e, bind: "127.0.0.1:4", request_id_header: {}}
  - {name: f, bind: "127.0.0.1:5", request_id_header: off}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.request_id_header: "X Y" is not a field name; allowed: the name of a field such as X-Request-ID, or off
proxy.yaml:3: listeners.1.request_id_header: "Host" says something else; allowed: the name of a field such as X-Request-ID, or off
proxy.yaml:4: listeners.2.request_id_header: "X_Request_ID" holds _, and fields with _ are dropped from requests; allowed: the name of a field such as X-Request-ID, or off
proxy.yaml:5: listeners.3.request_id_header: "X-From" is the field of client_ip; allowed: another one
proxy.yaml:6: listeners.4.request_id_header: is a mapping; allowed: the name of a field such as X-Request-ID, or off
=== list_for_mapping
admin: []
routes: [{service: a}]
--->
proxy.yaml:1: admin: is a list; allowed: a mapping
=== text_for_mapping
log: debug
routes: [{service: a}]
--->
proxy.yaml:1: log: is "debug"; allowed: a mapping
=== text_for_list
registry: {type: etcd, endpoints: 'http://a:1'}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints: is "http://a:1"; allowed: a list
=== mapping_for_list
listeners: {bind: 0.0.0.0:80}
routes: [{service: a}]
--->
proxy.yaml:1: listeners: is a mapping; allowed: a list
=== empty_list_key
listeners:
routes: [{service: a}]
--->
proxy.yaml:1: listeners: is empty; allowed: a list, or leave the key out
=== mapping_for_text
admin: {bind: {host: a}}
routes: [{service: a}]
--->
proxy.yaml:1: admin.bind: is a mapping; allowed: host:port, [IPv6]:port
=== admin_tls
admin: {tls: {cert: a.pem, client_ca: []}}
routes: [{service: a}]
--->
proxy.yaml:1: admin.tls.client_ca: is a list; allowed: text
proxy.yaml:1: admin.tls.key: is missing; allowed: text
=== admin_hosts
admin: {hosts: ["a:80", "*.", "a.*", "a_b!", "10.0.0", "*x"], read_token: "a b"}
routes: [{service: a}]
--->
proxy.yaml:1: admin.hosts.0: "a:80" is not a host name; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.hosts.1: "*." is not a host name; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.hosts.2: "a.*" is not a host name; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.hosts.3: "a_b!" is not a host name; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.hosts.4: "10.0.0" is not an IPv4 address; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.hosts.5: "*x" is not a host name; allowed: a host name, *.example.com or * for any
proxy.yaml:1: admin.read_token: the value cannot be sent as a bearer token; allowed: letters, digits and - . _ ~ + /, with = only at the end
=== variable_unset
workers: ${N}
routes: [{service: a}]
--->
proxy.yaml:1: workers: the environment variable N is not set; allowed: set it, or write ${N:-default}
=== variable_malformed
admin: {token: '${}'}
routes: [{service: a}]
--->
proxy.yaml:1: admin.token: ${} is not a variable; allowed: ${NAME}, ${NAME:-default}, or $${ for the characters themselves
=== variable_unclosed
admin: {token: '${A'}
routes: [{service: a}]
--->
proxy.yaml:1: admin.token: ${A is not a variable; allowed: ${NAME}, ${NAME:-default}, or $${ for the characters themselves
=== variable_wrong_value
workers: ${WORDS}
routes: [{service: a}]
--->
proxy.yaml:1: workers: "two words" (from ${WORDS}) is not a number of processes; allowed: auto, or a whole number from 1 to 256
=== variable_is_no_structure
admin: ${MAPPING}
routes: [{service: a}]
--->
proxy.yaml:1: admin: is "{bind: 127.0.0.1:1}" (from ${MAPPING}); allowed: a mapping
=== variable_empty_number
defaults: {timeouts: {connect: '${EMPTY}'}}
routes: [{service: a}]
--->
proxy.yaml:1: defaults.timeouts.connect: "" (from ${EMPTY}) is not a duration; allowed: a duration such as 250ms, 3s, 2m or 1h (0 = no limit)
=== secret_is_not_shown
admin:
  token: ${WORDS}
routes: [{service: a}]
--->
proxy.yaml:2: admin.token: the value cannot be sent as a bearer token; allowed: letters, digits and - . _ ~ + /, with = only at the end
=== workers_zero
workers: 0
routes: [{service: a}]
--->
proxy.yaml:1: workers: "0" is not a number of processes; allowed: auto, or a whole number from 1 to 256
=== workers_text
workers: many
routes: [{service: a}]
--->
proxy.yaml:1: workers: "many" is not a number of processes; allowed: auto, or a whole number from 1 to 256
=== log_level
log: {level: warn}
routes: [{service: a}]
--->
proxy.yaml:1: log.level: "warn" is not a log level (did you mean "warning"?); allowed: debug, info, warning, error
=== log_format
log: {format: text}
routes: [{service: a}]
--->
proxy.yaml:1: log.format: "text" is not a log format; allowed: json, console
=== admin_unix
admin: {bind: 'unix:/run/a.sock'}
routes: [{service: a}]
--->
proxy.yaml:1: admin.bind: "unix:/run/a.sock" has no port from 0 to 65535; allowed: host:port, [IPv6]:port
=== socket_mode
listeners: [{bind: 'unix:/run/a.sock', mode: "0999"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.mode: "0999" is not a file mode in octal digits; allowed: an octal mode such as "0660"
=== socket_mode_with_setuid
listeners: [{bind: 'unix:/run/a.sock', mode: "4755"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.mode: "4755" is not a file mode in octal digits; allowed: an octal mode such as "0660"
=== socket_mode_for_nobody
listeners: [{bind: 'unix:/run/a.sock', mode: "0444"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.mode: "0444" lets nobody connect; allowed: an octal mode such as "0660"
=== socket_owner_empty
listeners: [{bind: 'unix:/run/a.sock', owner: ":"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.owner: ":" is not an owner; allowed: user, user:group or :group, by names or by numbers
=== socket_owner_without_group
listeners: [{bind: 'unix:/run/a.sock', owner: "root:"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.owner: "root:" is not an owner; allowed: user, user:group or :group, by names or by numbers
=== socket_owner_unknown
listeners: [{bind: 'unix:/run/a.sock', owner: no-such-user}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.owner: "no-such-user" names a user that this machine does not have; allowed: user, user:group or :group, by names or by numbers
=== socket_group_unknown
listeners: [{bind: 'unix:/run/a.sock', owner: "root:no-such-group"}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.owner: "root:no-such-group" names a group that this machine does not have; allowed: user, user:group or :group, by names or by numbers
=== socket_owner_id
listeners: [{bind: 'unix:/run/a.sock', owner: 4294967295}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.owner: "4294967295" has too large a user id; allowed: user, user:group or :group, by names or by numbers
=== socket_settings_without_a_socket
listeners:
  - bind: 127.0.0.1:80
    mode: "0660"
    owner: root
routes: [{service: a}]
--->
proxy.yaml:3: listeners.0.mode: is for the file of a Unix socket, and "127.0.0.1:80" is none; allowed: leave it out, or a bind such as unix:/run/fairlead.sock
proxy.yaml:4: listeners.0.owner: is for the file of a Unix socket, and "127.0.0.1:80" is none; allowed: leave it out, or a bind such as unix:/run/fairlead.sock
=== relay_without_a_direct_registry
registry: {type: relay, endpoints: ['http://a:1']}
relay: {bind: 127.0.0.1:8081}
routes: [{service: a}]
--->
proxy.yaml:2: relay: has nothing to tell beside a registry of type relay; allowed: type etcd, and in particular no other relay
=== relay_open_to_all
registry: {type: etcd, endpoints: ['http://a:1']}
relay: {bind: 0.0.0.0:9900}
routes: [{service: a}]
--->
proxy.yaml:2: relay.bind: "0.0.0.0:9900" is already used; allowed: another port or address
proxy.yaml:2: relay.token: is missing, and "0.0.0.0:9900" is no loopback address; allowed: a token, or tls.client_ca
=== secrets_in_files
registry: {type: etcd, endpoints: ['http://a:1']}
admin: {token: a, token_file: none-such, read_token_file: /dev/null}
relay: {bind: 0.0.0.0:9901, token_file: none-such}
acme: {directory: 'https://a/b', domains: [a.example], eab: {kid: a}}
routes: [{service: a}]
--->
proxy.yaml:2: admin.read_token_file: cannot be read (is a device); allowed: a file with the secret
proxy.yaml:2: admin.token_file: stands beside token; allowed: one of the two
proxy.yaml:2: admin.token_file: cannot be read (No such file or directory); allowed: a file with the secret
proxy.yaml:3: relay.token_file: cannot be read (No such file or directory); allowed: a file with the secret
proxy.yaml:4: acme.eab.hmac_key: is missing; allowed: base64url, as the server gives it
=== routes_from_instances_of_anybody
routes_from_instances: {hosts: ['*.example.com']}
routes: [{service: a}]
--->
proxy.yaml:1: routes_from_instances.hosts.0: "*.example.com" lacks {service}, so that any service could take it; allowed: a pattern with {service}, or any_service: true
=== routes_from_instances_without_bounds
routes_from_instances: {any_service: true}
routes: [{service: a}]
--->
proxy.yaml:1: routes_from_instances: allows no route; allowed: with hosts, path_prefixes or both
=== acme_of_a_fleet_without_etcd_and_key
acme: {directory: 'https://a/', domains: [a.test], storage: {key_file: nowhere.key}}
fleet: {key_file: nowhere.key}
routes: [{service: a}]
--->
proxy.yaml:1: acme.storage.key_file: "nowhere.key" cannot be read (No such file or directory); allowed: a readable file with 32 random bytes or more
proxy.yaml:1: acme.storage.key_file: finds no registry of type etcd; allowed: one, by its name
proxy.yaml:2: fleet.key_file: "nowhere.key" cannot be read (No such file or directory); allowed: a readable file with 32 random bytes or more
=== shared_socket_file
listeners:
  - bind: unix:/run/web.sock
    share: true
routes: [{service: a}]
--->
proxy.yaml:3: listeners.0.share: is for an address and a port, and "unix:/run/web.sock" is a file, which one process listens on; allowed: false
=== shutdown_negative
shutdown: {grace: -1s}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: "-1s" is not a duration; allowed: a duration such as 250ms, 3s, 2m or 1h
=== duration_without_unit
shutdown: {grace: 30}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: "30" has no unit; allowed: a duration such as 250ms, 3s, 2m or 1h
=== duration_unit
shutdown: {grace: 3d}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: "3d" is not a duration; allowed: a duration such as 250ms, 3s, 2m or 1h
=== duration_sum
shutdown: {grace: 1h30m}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: "1h30m" is not a duration; allowed: a duration such as 250ms, 3s, 2m or 1h
=== duration_list
shutdown: {grace: [1s]}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: is a list; allowed: a duration such as 250ms, 3s, 2m or 1h
=== duration_empty
shutdown: {grace: }
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: is empty; allowed: a duration such as 250ms, 3s, 2m or 1h, or leave the key out
=== duration_zero
listeners: [{timeouts: {head: 0s}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.timeouts.head: "0s" is too short; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
=== duration_endless
shutdown: {grace: 9999h}
routes: [{service: a}]
--->
proxy.yaml:1: shutdown.grace: "9999h" is longer than a year; allowed: a duration such as 250ms, 3s, 2m or 1h
=== size_unit
listeners: [{limits: {head: 32k}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.head: "32k" is not a size; allowed: a size from 1024 to 1048576 bytes, such as 64KiB or 10MiB
=== size_small
listeners: [{limits: {head: 10B}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.head: "10B" is out of range; allowed: a size from 1024 to 1048576 bytes, such as 64KiB or 10MiB
=== size_fraction
listeners: [{limits: {body: 1.5MiB}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.body: "1.5MiB" is not a size; allowed: a size from 0 to 1125899906842624 bytes, such as 64KiB or 10MiB (0 = no limit)
=== integer_quoted
listeners: [{limits: {fields: '128'}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.fields: "128" is text; allowed: a whole number from 1 to 10000, without quotes
=== integer_octal
listeners: [{limits: {fields: 010}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.fields: "010" is not a whole number; allowed: a whole number from 1 to 10000
=== integer_fraction
listeners: [{limits: {fields: 1.5}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.fields: "1.5" is not a whole number; allowed: a whole number from 1 to 10000
=== target_larger_than_head
listeners: [{limits: {head: 4KiB}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.limits.target: is larger than the head that holds it; allowed: up to 4096 bytes, or a larger limits.head
=== no_listener
listeners: []
routes: [{service: a}]
--->
proxy.yaml:1: listeners: is empty; allowed: at least one listener
=== bind_port_only
listeners: [{bind: 8080}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "8080" has no port; allowed: host:port, [IPv6]:port or unix:/path
=== bind_colon_port
listeners: [{bind: ':8080'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: ":8080" has no host (every address is 0.0.0.0:8080 or [::]:8080); allowed: host:port, [IPv6]:port or unix:/path
=== bind_port_range
listeners: [{bind: 'localhost:70000'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "localhost:70000" has no port from 0 to 65535; allowed: host:port, [IPv6]:port or unix:/path
=== bind_v6_without_brackets
listeners: [{bind: '::1:8080'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "::1:8080" holds an IPv6 address without brackets; allowed: host:port, [IPv6]:port or unix:/path
=== bind_v6_wrong
listeners: [{bind: '[::g]:8080'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "[::g]:8080" holds no IPv6 address in its brackets; allowed: host:port, [IPv6]:port or unix:/path
=== bind_v4_wrong
listeners: [{bind: '10.0.0.300:80'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "10.0.0.300:80" is not an IPv4 address; allowed: host:port, [IPv6]:port or unix:/path
=== bind_unix_relative
listeners: [{bind: 'unix:run.sock'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "unix:run.sock" is not an absolute path of a socket; allowed: host:port, [IPv6]:port or unix:/path
=== bind_unix_long
listeners: [{bind: 'unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.bind: "unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..." is a path longer than 107 bytes; allowed: host:port, [IPv6]:port or unix:/path
=== bind_twice
listeners:
  - {name: a, bind: '0.0.0.0:80'}
  - {name: b, bind: '0.0.0.0:80'}
routes: [{service: a}]
--->
proxy.yaml:3: listeners.1.bind: "0.0.0.0:80" is already used by listeners.0.bind; allowed: another port or address
=== bind_overlap
listeners:
  - {name: a, bind: '0.0.0.0:80'}
  - {name: b, bind: '10.0.0.1:80'}
routes: [{service: a}]
--->
proxy.yaml:3: listeners.1.bind: "10.0.0.1:80" is part of "0.0.0.0:80", already used by listeners.0.bind; allowed: another port or address
=== bind_of_admin
listeners:
  - {bind: '127.0.0.1:9900'}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.bind: "127.0.0.1:9900" is already used by admin.bind; allowed: another port or address
=== bind_of_admin_overlap
admin: {bind: '[::]:8080'}
listeners:
  - {bind: '[::1]:8080'}
routes: [{service: a}]
--->
proxy.yaml:3: listeners.0.bind: "[::1]:8080" is part of "[::]:8080", already used by admin.bind; allowed: another port or address
=== listener_names
listeners:
  - {bind: '0.0.0.0:80'}
  - {bind: '0.0.0.0:81'}
routes: [{service: a}]
--->
proxy.yaml:3: listeners.1.name: "web" is already the name of listeners.0; allowed: a different name for each listener
=== listener_name
listeners: [{name: a b}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.name: "a b" is not a usable name; allowed: 1 to 63 letters, digits and . _ -
=== cidr
listeners: [{trusted_proxies: [10.0.0.0/8, intranet]}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.trusted_proxies.1: "intranet" is not a network; allowed: 10.0.0.0/8, fd00::/8 or one address
=== cidr_host_bits
listeners: [{trusted_proxies: [10.0.0.1/8]}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.trusted_proxies.0: "10.0.0.1/8" has bits set behind its prefix length (did you mean 10.0.0.0/8?); allowed: 10.0.0.0/8, fd00::/8 or one address
=== registry_type
registry: {type: etc}
routes: [{service: a}]
--->
proxy.yaml:1: registry.type: "etc" is not a registry type (did you mean "etcd"?); allowed: %PROVIDERS
=== registry_endpoints_missing
registry: {type: etcd}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints: is missing; allowed for type etcd: at least one http://host:port
=== registry_endpoints_empty
registry: {type: etcd, endpoints: []}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints: is empty; allowed for type etcd: at least one http://host:port
=== registry_endpoint_scheme
registry: {type: etcd, endpoints: [127.0.0.1:2379]}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.0: "127.0.0.1:2379" does not begin with http:// or https://; allowed: http://host:port or https://host:port
=== registry_endpoint_path
registry: {type: etcd, endpoints: ['http://a:1/v3']}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.0: "http://a:1/v3" has something behind the host and port; allowed: http://host:port or https://host:port
=== registry_endpoint_user
registry: {type: etcd, endpoints: ['http://u:p@a:1']}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.0: the value holds a user name (use username and password); allowed: http://host:port or https://host:port
=== registry_endpoint_port
registry: {type: etcd, endpoints: ['http://a:99999']}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.0: "http://a:99999" is not a URL; allowed: http://host:port or https://host:port
=== registry_endpoint_twice
registry: {type: etcd, endpoints: ['http://a:1', 'http://b:1', 'HTTP://A:1/']}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.2: "http://a:1" stands here a second time; allowed: each one once
=== registries
registry: {type: etcd, endpoints: ['http://a:1']}
registries:
  - {type: etcd, endpoints: ['http://a:1']}
  - {type: etcd, endpoints: ['http://b:1']}
  - {name: x, type: etcd, endpoints: ['http://a:1']}
  - {name: x, type: consul}
  - {type: static}
routes: [{service: a}]
--->
proxy.yaml:1: registry: stands beside registries; allowed: one of them
proxy.yaml:4: registries.1: another registry is called "etcd"; allowed: other names
proxy.yaml:5: registries.2: has the same registry as registries.0; allowed: another one
proxy.yaml:6: registries.3.endpoints: is missing; allowed for type consul: at least one http://host:port
proxy.yaml:6: registries.3.name: another registry is called "x"; allowed: other names
proxy.yaml:7: registries.4.type: "static" is no registry; allowed: services.*.instances
=== registry_dns
registry: {type: dns, servers: ["fd00::1"], services: {users: users.internal, web: "web:0"}}
routes: [{service: a}]
--->
proxy.yaml:1: registry.servers.0: "fd00::1" holds an IPv6 address without brackets; allowed: host, host:port or [IPv6]:port
proxy.yaml:1: registry.services.users: "users.internal" has no port, and is no SRV name (_service._proto.domain); allowed: _service._proto.domain, or name:port
proxy.yaml:1: registry.services.web: "web:0" has no port from 1 to 65535; allowed: _service._proto.domain, or name:port
=== registry_format
registry: {type: etcd, endpoints: ['http://a:1'], prefix: "", format: krato}
routes: [{service: a}]
--->
proxy.yaml:1: registry.format: "krato" is not a format (did you mean "kratos"?); allowed: auto, fairlead, text, grpc, kratos, go-micro, go-zero, registrator, nerve, curator, serverset
=== registry_password_twice
registry: {type: etcd, endpoints: ['http://a:1'], username: u, password: p, password_file: none}
routes: [{service: a}]
--->
proxy.yaml:1: registry.password_file: stands beside password; allowed: one of them
proxy.yaml:1: registry.password_file: "none" cannot be read (No such file or directory); allowed: a readable file
=== registry_password_alone
registry: {type: etcd, endpoints: ['http://a:1'], password: x}
routes: [{service: a}]
--->
proxy.yaml:1: registry.password: has no username; allowed: both of them, or neither
=== registry_zookeeper
registry: {type: zookeeper, endpoints: ['http://a:1', 'b:0'], prefix: services, format: dubbo}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints.0: "http://a:1" is not a host name; allowed: host:port
proxy.yaml:1: registry.endpoints.1: "b:0" has no port from 1 to 65535; allowed: host:port
proxy.yaml:1: registry.format: "dubbo" is not a format; allowed: auto, fairlead, text, grpc, kratos, go-micro, go-zero, registrator, nerve, curator, serverset
proxy.yaml:1: registry.prefix: "services" is not the path of a node below the root; allowed: the path of a node such as /services
=== registry_zookeeper_without_servers
registry: {type: zookeeper}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints: is missing; allowed for type zookeeper: at least one host:port
=== registry_secret_twice
registry: {type: consul, endpoints: ['http://a:1'], token: x, token_file: nowhere}
routes: [{service: a}]
--->
proxy.yaml:1: registry.token_file: stands beside token; allowed: one of them
proxy.yaml:1: registry.token_file: "nowhere" cannot be read (No such file or directory); allowed: a readable file
=== registry_tls_no_file
registry: {type: etcd, endpoints: ['https://a:1'], tls: {ca: none.pem}}
routes: [{service: a}]
--->
proxy.yaml:1: registry.tls.ca: "none.pem" cannot be read (No such file or directory); allowed: a readable PEM file
=== registry_static_with_endpoints
registry: {endpoints: ['http://a:1']}
routes: [{service: a}]
--->
proxy.yaml:1: registry.endpoints: has no meaning for type static; allowed: leave it out, or another type
=== balancer_name
services: {a: {balancer: leastconn}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer: "leastconn" is not a balancer (did you mean "least_connections"?); allowed: %BALANCERS
=== balancer_type
services: {a: {balancer: {type: ring}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.type: "ring" is not a balancer; allowed: %BALANCERS
=== balancer_list
services: {a: {balancer: [random]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer: is a list; allowed: a mapping
=== balancer_empty
services: {a: {balancer: }}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer: is empty; allowed: a mapping, or leave the key out
=== balancer_key_unused
services: {a: {balancer: {type: random, key: host}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.key: has no meaning for random; allowed: only for consistent_hash, maglev
=== balancer_key
services: {a: {balancer: {type: consistent_hash, key: header}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.key: "header" names no field; allowed: client_ip, host, path, header:NAME, cookie:NAME or query:NAME
=== balancer_key_field
services: {a: {balancer: {type: consistent_hash, key: 'header:X User'}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.key: "header:X User" is not a field name; allowed: client_ip, host, path, header:NAME, cookie:NAME or query:NAME
=== balancer_key_source
services: {a: {balancer: {type: consistent_hash, key: 'body:x'}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.key: "body:x" is not a source of keys; allowed: client_ip, host, path, header:NAME, cookie:NAME or query:NAME
=== balancer_key_characters
services: {a: {balancer: {type: consistent_hash, key: 'query:größe→'}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.key: "query:größe→" is not a source of keys; allowed: client_ip, host, path, header:NAME, cookie:NAME or query:NAME
=== balancer_parameter_unknown
services: {a: {balancer: {type: consistent_hash, virtual_node: 1}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.virtual_node: is not a known key (did you mean "virtual_nodes"?); allowed for consistent_hash: type, key, virtual_nodes, bounded_load
=== balancer_parameter_of_another
services: {a: {balancer: {type: round_robin, virtual_nodes: 10}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.virtual_nodes: is not a known key; allowed for round_robin: type
=== balancer_virtual_nodes
services: {a: {balancer: {type: consistent_hash, virtual_nodes: 0}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.virtual_nodes: "0" is out of range; allowed: a whole number from 1 to 10000
=== balancer_virtual_nodes_fraction
services: {a: {balancer: {type: consistent_hash, virtual_nodes: 1.5}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.virtual_nodes: "1.5" is not a whole number; allowed: a whole number from 1 to 10000
=== balancer_bounded_load
services: {a: {balancer: {type: consistent_hash, bounded_load: 0.5}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.balancer.bounded_load: "0.5" is out of range; allowed: 0, or a number from 1 to 100
=== service_name
services: {a/b: {}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a/b: is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -, as in a registry key
=== timeouts
services: {a: {timeouts: {connect: soon}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.timeouts.connect: "soon" is not a duration; allowed: a duration such as 250ms, 3s, 2m or 1h (0 = no limit)
=== retry_on_switch
services: {a: {retry: on}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.retry: "on" is not a mapping; allowed: a mapping, or off
=== retry_count
services: {a: {retry: {max_retries: 6}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.retry.max_retries: "6" is out of range; allowed: a whole number from 0 to 5 (0 = off)
=== keepalive
services: {a: {keepalive: {idle: 0s, max_idle: -1, max_requests: 0}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.keepalive.idle: "0s" is too short; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
proxy.yaml:1: services.a.keepalive.max_idle: "-1" is out of range; allowed: a whole number from 0 to 10000 (0 = no idle connections)
proxy.yaml:1: services.a.keepalive.max_requests: "0" is out of range; allowed: a whole number from 1 to 1000000000
=== instances_none
services: {a: {instances: []}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances: is empty; allowed: at least one instance, or leave it out to look the service up in the registry
=== instance_without_port
services: {a: {instances: [{address: 10.0.0.1}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.port: is missing; allowed: a whole number from 1 to 65535
=== instance_without_address
services: {a: {instances: [{port: 80}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.address: is missing; allowed: an IP address or a host name
=== instance_port
services: {a: {instances: [{address: 10.0.0.1, port: 0}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.port: "0" is out of range; allowed: a whole number from 1 to 65535
=== instance_address
services: {a: {instances: [{address: 'http://a', port: 80}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.address: "http://a" is not a host name; allowed: an IP address or a host name
=== instance_weight
services: {a: {instances: [{address: a, port: 80, weight: -1}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.weight: "-1" is out of range; allowed: a whole number from 0 to 65535 (0 = drained)
=== instance_metadata_weight
services: {a: {instances: [{address: a, port: 80, metadata: {weight: two}}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.metadata.weight: "two" is not a whole number; allowed: a whole number from 0 to 65535 (0 = drained)
=== instance_two_weights
services: {a: {instances: [{address: a, port: 80, weight: 1, metadata: {weight: 1}}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.0.metadata.weight: says the same as weight; allowed: one of the two
=== instance_ids
services: {a: {instances: [{id: x, address: a, port: 80}, {id: x, address: b, port: 80}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.1.id: "x" is already the id of services.a.instances.0; allowed: a different id for each instance
=== instance_default_ids
services: {a: {instances: [{address: a, port: 80}, {address: a, port: 80}]}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.instances.1: "a:80" is already the id of services.a.instances.0; allowed: a different id for each instance
=== routes_missing
workers: 1
--->
proxy.yaml:1: routes: is missing; allowed: at least one route
=== routes_empty
routes: []
--->
proxy.yaml:1: routes: is empty; allowed: at least one route
=== routes_mapping
routes: {service: a}
--->
proxy.yaml:1: routes: is a mapping; allowed: a list
=== route_text
routes: [a]
--->
proxy.yaml:1: routes.0: is "a"; allowed: a mapping
=== route_without_service
routes:
  - {path_prefix: /a}
--->
proxy.yaml:2: routes.0: leads nowhere; allowed: a service, or {service} in host or path_prefix
=== route_service_and_template
routes:
  - {path_prefix: "/{service}", service: a}
--->
proxy.yaml:2: routes.0.service: stands beside a {service} template; allowed: one of the two
=== route_two_templates
routes:
  - {host: "{service}.b", path_prefix: "/{service}"}
--->
proxy.yaml:2: routes.0.path_prefix: holds {service}, and so does host; allowed: in one of them
=== route_template_twice
routes:
  - {path_prefix: "/{service}/{service}"}
--->
proxy.yaml:2: routes.0.path_prefix: "/{service}/{service}" holds {service} more than once; allowed: a path such as /orders or /svc/{service}
=== route_wildcards
routes:
  - {path_prefix: "/api/*", service: a}
  - {path: "/api*", service: a}
  - {paths: [/a, "/a/*/b"], service: a}
  - {path: "/a*b", rewrite: "/*", service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/api/*" holds *, which stands for itself and not for any text; allowed: a path such as /orders or /svc/{service}
proxy.yaml:3: routes.1.path: "/api*" holds *, which stands for itself and not for any text; allowed: a path such as /healthz
proxy.yaml:4: routes.2.paths.1: "/a/*/b" holds *, which stands for itself and not for any text; allowed: a path such as /healthz
=== route_template_partial
routes:
  - {path_prefix: "/x-{service}"}
--->
proxy.yaml:2: routes.0.path_prefix: "/x-{service}" has a segment that is only partly {service}; allowed: a path such as /orders or /svc/{service}
=== route_template_unknown
routes:
  - {path_prefix: "/{name}", service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/{name}" holds braces that are not {service}; allowed: a path such as /orders or /svc/{service}
=== route_host_partial
routes:
  - {host: "x-{service}.b"}
--->
proxy.yaml:2: routes.0.host: "x-{service}.b" has a label that is only partly {service}; allowed: users.example.com, *.example.com or {service}.example.com
=== route_host_wildcard_template
routes:
  - {host: "*.{service}.b"}
--->
proxy.yaml:2: routes.0.host: "*.{service}.b" is a wildcard and a template at once; allowed: users.example.com, *.example.com or {service}.example.com
=== route_host_wildcard_inside
routes:
  - {host: "a.*.b", service: a}
--->
proxy.yaml:2: routes.0.host: "a.*.b" has a * that is not the whole first label; allowed: users.example.com, *.example.com or {service}.example.com
=== route_host_port
routes:
  - {host: "a.b:80", service: a}
--->
proxy.yaml:2: routes.0.host: "a.b:80" has a port; allowed: users.example.com, *.example.com or {service}.example.com
=== route_host_unicode
routes:
  - {host: bücher.example, service: a}
--->
proxy.yaml:2: routes.0.host: "bücher.example" is not ASCII (write an international name in its xn-- form); allowed: users.example.com, *.example.com or {service}.example.com
=== route_host_invalid
routes:
  - {host: a..b, service: a}
--->
proxy.yaml:2: routes.0.host: "a..b" is not a host name; allowed: users.example.com, *.example.com or {service}.example.com
=== route_prefix_relative
routes:
  - {path_prefix: a, service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "a" does not begin with /; allowed: a path such as /orders or /svc/{service}
=== route_prefix_query
routes:
  - {path_prefix: '/a?b', service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/a?b" holds a query or a fragment; allowed: a path such as /orders or /svc/{service}
=== route_prefix_dots
routes:
  - {path_prefix: /a/../b, service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/a/../b" holds a dot segment, which requests never have when they are matched; allowed: a path such as /orders or /svc/{service}
=== route_prefix_encoded_dots
routes:
  - {path_prefix: /a/%2E, service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/a/%2E" holds a dot segment, which requests never have when they are matched; allowed: a path such as /orders or /svc/{service}
=== route_prefix_encoded_slash
routes:
  - {path_prefix: /a%2Fb, service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/a%2Fb" holds %2F, which is refused in requests; allowed: a path such as /orders or /svc/{service}
=== route_prefix_space
routes:
  - {path_prefix: /a b, service: a}
--->
proxy.yaml:2: routes.0.path_prefix: "/a b" holds characters that a path must have percent-encoded; allowed: a path such as /orders or /svc/{service}
=== route_strip_and_rewrite
routes:
  - {path_prefix: /a, strip_prefix: true, rewrite_prefix: /b, service: a}
--->
proxy.yaml:2: routes.0.rewrite_prefix: stands beside strip_prefix: true; allowed: one of the two
=== route_strip_nothing
routes:
  - {strip_prefix: true, service: a}
--->
proxy.yaml:2: routes.0.strip_prefix: has no prefix to act on; allowed: with path_prefix
=== route_rewrite_nothing
routes:
  - {rewrite_prefix: /b, service: a}
--->
proxy.yaml:2: routes.0.rewrite_prefix: has no prefix to act on; allowed: with path_prefix
=== route_rewrite_template
routes:
  - {path_prefix: "/{service}", rewrite_prefix: "/b/{service}"}
--->
proxy.yaml:2: routes.0.rewrite_prefix: "/b/{service}" holds braces; allowed: a path such as /new
=== route_strip_text
routes:
  - {path_prefix: /a, strip_prefix: maybe, service: a}
--->
proxy.yaml:2: routes.0.strip_prefix: "maybe" is not a switch; allowed: true or false
=== route_method_case
routes:
  - {methods: [get], service: a}
--->
proxy.yaml:2: routes.0.methods.0: "get" is not a method (did you mean "GET"?); allowed: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS and others
=== route_method_unknown
routes:
  - {methods: [FETCH], service: a}
--->
proxy.yaml:2: routes.0.methods.0: "FETCH" is not a method (did you mean "PATCH"?); allowed: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS and others
=== route_method_connect
routes:
  - {methods: [CONNECT], service: a}
--->
proxy.yaml:2: routes.0.methods.0: "CONNECT" is answered with 405 and never routed; allowed: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS and others
=== route_conditions_empty
routes:
- {service: a, hosts: [], paths: [], path_prefixes: [], methods: [], headers: {}}
- {service: a, query: {}, listeners: []}
- {host: '{service}.x', where: {}, services: []}
--->
proxy.yaml:2: routes.0.headers: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:2: routes.0.hosts: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:2: routes.0.methods: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:2: routes.0.path_prefixes: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:2: routes.0.paths: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:3: routes.1.listeners: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:3: routes.1.query: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:4: routes.2.services: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:4: routes.2.where: is empty; allowed: at least one, or leave it out, and any will do
=== callers_conditions_empty
services: {a: {callers: {allow: [b, {service: c, methods: [], path_prefixes: []}]}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.callers.allow.1.methods: is empty; allowed: at least one, or leave it out, and any will do
proxy.yaml:1: services.a.callers.allow.1.path_prefixes: is empty; allowed: at least one, or leave it out, and any will do
=== route_methods_text
routes:
  - {methods: GET, service: a}
--->
proxy.yaml:2: routes.0.methods: is "GET"; allowed: a list
=== route_header_name
routes:
  - {headers: {X Beta: 1}, service: a}
--->
proxy.yaml:2: routes.0.headers.X Beta: "X Beta" is not a field name; allowed: a name such as X-Beta
=== route_header_underscore
routes:
  - {headers: {X_Beta: 1}, service: a}
--->
proxy.yaml:2: routes.0.headers.X_Beta: "X_Beta" holds _, and fields with _ are dropped from requests; allowed: a name such as X-Beta
=== route_header_twice
routes:
  - {headers: {X-Beta: 1, x-beta: 2}, service: a}
--->
proxy.yaml:2: routes.0.headers.x-beta: "x-beta" is the same field as "X-Beta"; allowed: each one once
=== route_header_value
routes:
  - {headers: {X-Beta: ' 1'}, service: a}
--->
proxy.yaml:2: routes.0.headers.X-Beta: " 1" begins or ends with a space, which a field value never does; allowed: the exact value of the field
=== route_terms
routes:
  - {path: /a, service: a, timeouts: {first_byte: 5, wait: 1s}, retry: {on: [403], budget: 1}}
  - {path: /b, respond: 200, timeouts: {total: 1s}, retry: off}
--->
proxy.yaml:2: routes.0.retry.budget: is not a known key; allowed: max_retries, methods, on
proxy.yaml:2: routes.0.retry.on.0: "403" is not a reason to retry (did you mean "503"?); allowed: connect, reset, first_byte, 502, 503, 504, grpc_unavailable, grpc_resource_exhausted
proxy.yaml:2: routes.0.timeouts.first_byte: "5" has no unit; allowed: a duration such as 250ms, 3s, 2m or 1h (0 = no limit)
proxy.yaml:2: routes.0.timeouts.wait: is not a known key; allowed: connect, first_byte, idle, queue, total, tunnel_idle
proxy.yaml:3: routes.1.retry: has no instance to wait for; allowed: beside a service
proxy.yaml:3: routes.1.timeouts: has no instance to wait for; allowed: beside a service
=== route_where
routes:
  - {path: /a, service: a, where: {public: "true"}}
  - {host: "{service}.a", where: {public: [1]}}
  - {path: /b, service: a, services: [a]}
--->
proxy.yaml:2: routes.0.where: has no {service} to narrow; allowed: beside one
proxy.yaml:3: routes.1.where.public: is a list; allowed: text
proxy.yaml:4: routes.2.services: has no {service} to narrow; allowed: beside one
=== route_regex
routes:
  - {path_regex: "^/(a+)+$", service: a}
  - {path_regex: "^/(?P<a>x)", path: /x, rewrite: "/{b}", service: a}
  - {path_prefix: /x, rewrite: /y, service: a}
  - {path: /x, rewrite: "/{y}", forward_path: received, service: a}
  - {path: /y, rewrite: "y{", service: a}
--->
proxy.yaml:2: routes.0.path_regex: "^/(a+)+$" has a repetition that what follows may begin like, so that it can be read in very many ways ([^/]+ instead of .* is mostly what is meant); allowed: a pattern such as ^/v(?P<v>[0-9]+)/
proxy.yaml:3: routes.1.path: stands beside path_regex; allowed: one of the two
proxy.yaml:3: routes.1.rewrite: holds {b}; allowed of path_regex: a
proxy.yaml:4: routes.2.rewrite: has nothing to act on; allowed: with path_regex, or with path alone
proxy.yaml:5: routes.3.forward_path: "received" stands beside rewrite, which changes the path; allowed: one of the two
proxy.yaml:5: routes.3.rewrite: holds {y}; allowed of path_regex: no groups
proxy.yaml:6: routes.4.rewrite: "y{" does not begin with /; allowed: a path such as /api/{v}/
=== route_way_back
routes:
  - {path_prefix: /a, rewrite_responses: true, service: a}
--->
proxy.yaml:2: routes.0.rewrite_responses: has nothing to turn back; allowed: with strip_prefix, rewrite_prefix or set_host
=== service_sources
services:
  a: "http://a.example/x"
  b: {from: c, instances: [{address: 10.0.0.1, port: 1}]}
  c: {from: d, url: "http://c"}
  e: {subset: {otherwise: any}, zone: {min_ready: 0}}
routes: [{service: a}]
--->
proxy.yaml:2: services.a: "http://a.example/x" has something behind the host and port; allowed: http://host:port or https://host:port
proxy.yaml:3: services.b.from: c has its own from d; allowed: a service with some
proxy.yaml:3: services.b.from: stands beside instances; allowed: one of the two
proxy.yaml:4: services.c.from: stands beside url; allowed: one of the two
proxy.yaml:5: services.e.subset: selects nothing; allowed: at least one key under select
proxy.yaml:5: services.e.zone.min_ready: "0" is out of range; allowed: a number from 0.01 to 1
=== service_sticky
defaults: {sticky: {cookie: "a b", secret: short}}
services:
  a: {balancer: maglev}
  b: {sticky: {secret_file: none-such}}
  c: {sticky: {secret_file: x, secret: 0123456789abcdef, secure: true}}
  d: {sticky: {same_site: none, secure: never}}
  e: {sticky: {same_site: none}}
routes: [{service: a}]
--->
proxy.yaml:1: defaults.sticky.cookie: "a b" is not a cookie's name; allowed: up to 64 characters of a token, such as fl
proxy.yaml:1: defaults.sticky.secret: the value is too short; allowed: 16 characters or more
proxy.yaml:3: services.a.balancer: is sticky beside maglev, which keeps keys with instances itself; allowed: sticky: off, or another balancer
proxy.yaml:4: services.b.sticky.secret_file: cannot be read (No such file or directory); allowed: a file with the secret
proxy.yaml:5: services.c.sticky.secret_file: stands beside secret; allowed: one of the two
proxy.yaml:5: services.c.sticky.secret_file: cannot be read (No such file or directory); allowed: a file with the secret
proxy.yaml:5: services.c.sticky.secure: "true" is not a way to say Secure; allowed: auto, always, never
proxy.yaml:6: services.d.sticky.same_site: none beside secure: never is refused by browsers; allowed: secure: always or auto
=== listener_mode_tcp
listeners:
  - {mode_tcp: a/b}
  - {name: db, bind: "127.0.0.1:1", mode_tcp: db, tls_passthrough: true}
  - {name: mq, bind: "127.0.0.1:2", mode_tcp: mq, filters: [{allow: [10.0.0.0/8]}]}
routes: [{service: a}]
--->
proxy.yaml:2: listeners.0.mode_tcp: "a/b" is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -
proxy.yaml:3: listeners.1.tls_passthrough: has no meaning beside mode_tcp, which looks at nothing that is said on a connection; allowed: one of the two
proxy.yaml:4: listeners.2.filters: has no meaning beside mode_tcp, which looks at nothing that is said on a connection; allowed: one of the two
=== route_listener
listeners: [{name: web}]
routes:
  - {listeners: [wep, web, web], service: a}
--->
proxy.yaml:3: routes.0.listeners.0: "wep" is not a listener (did you mean "web"?); allowed: web
proxy.yaml:3: routes.0.listeners.2: "web" stands here a second time; allowed: each one once
=== route_shadowed_on_some_listeners
listeners: [{name: a, bind: "127.0.0.1:1"}, {name: b, bind: "127.0.0.1:2"}]
routes:
  - {listeners: [a], service: a}
  - {listeners: [b], service: b}
  - {service: c}
  - {listeners: [a], service: d}
--->
proxy.yaml:6: routes.3: can never match, because routes.0 takes all its requests; allowed: move it up, or give it other conditions
=== route_set_host
routes:
  - {set_host: 'a:b', service: a}
--->
proxy.yaml:2: routes.0.set_host: "a:b" has no port from 1 to 65535; allowed: upstream.internal or host:port
=== route_service_name
routes:
  - {service: a/b}
--->
proxy.yaml:2: routes.0.service: "a/b" is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -
=== route_twice
routes:
  - {host: A.example, path_prefix: /a, service: a}
  - {host: a.example, path_prefix: /a, service: b}
--->
proxy.yaml:3: routes.1: can never match, because routes.0 takes all its requests; allowed: move it up, or give it other conditions
=== route_shadowed
routes:
  - {path_prefix: /a, service: a}
  - {path_prefix: /a, methods: [GET], headers: {X: 1}, service: b}
--->
proxy.yaml:3: routes.1: can never match, because routes.0 takes all its requests; allowed: move it up, or give it other conditions
=== trust_domain
services:
  a: {tls: {trust_domain: mesh.local}}
  b: {tls: {trust_domain: "mesh/local", ca: ca.pem}}
  c: {tls: {trust_domain: mesh.local, ca: ca.pem, server_name: c.internal, server_names: ["*.internal"], verify: false}}
routes: [{service: a}]
--->
proxy.yaml:2: services.a.tls.ca: is missing; allowed: the authorities of trust_domain
proxy.yaml:3: services.b.tls.trust_domain: "mesh/local" is not a host name; allowed: a host name such as mesh.local
proxy.yaml:4: services.c.tls.server_name: stands beside trust_domain; allowed: one of the two
proxy.yaml:4: services.c.tls.server_names: stands beside trust_domain; allowed: one of the two
proxy.yaml:4: services.c.tls.verify: is false beside trust_domain; allowed: true
=== listener_tls
listeners:
  - name: a
    bind: 127.0.0.1:1
    tls:
      certificates:
        - {cert: a.pem}
        - {key: a.pem}
        - {cert: a.pem, key: a.key, directory: certs}
        - {}
        - {cert: a.pem, key: a.key, ca: b}
        - a.pem
      unknown_names: drop
      min_version: SSLv3
      ciphers: RC4-FOO
      client_auth: request
      forward_client_cert: xfcc
      tickets: 1
      trust_domain: mesh.local
  - {name: b, bind: "127.0.0.1:2", tls: {certificates: []}}
  - {name: c, bind: "127.0.0.1:3", tls: {}}
  - {name: d, bind: "127.0.0.1:4", tls: yes}
  - {name: e, bind: "127.0.0.1:5", limits: {handshakes: -1}, timeouts: {handshake: 0}}
routes: [{service: a}]
--->
proxy.yaml:6: listeners.0.tls.certificates.0: is not one certificate; allowed: cert and key, directory, or acme
proxy.yaml:7: listeners.0.tls.certificates.1: is not one certificate; allowed: cert and key, directory, or acme
proxy.yaml:8: listeners.0.tls.certificates.2: is not one certificate; allowed: cert and key, directory, or acme
proxy.yaml:9: listeners.0.tls.certificates.3: is not one certificate; allowed: cert and key, directory, or acme
proxy.yaml:10: listeners.0.tls.certificates.4.ca: is not a known key; allowed: acme, cert, directory, key
proxy.yaml:11: listeners.0.tls.certificates.5: is "a.pem"; allowed: a mapping
proxy.yaml:12: listeners.0.tls.unknown_names: "drop" is not a way to treat unknown names; allowed: default, refuse
proxy.yaml:13: listeners.0.tls.min_version: "SSLv3" is not a TLS version; allowed: 1.2, 1.3
proxy.yaml:14: listeners.0.tls.ciphers: "RC4-FOO" holds no cipher that this OpenSSL has; allowed: modern, compatible, or a list of ciphers in OpenSSL's words
proxy.yaml:15: listeners.0.tls.client_auth: needs client_ca beside it; allowed: both, or neither
proxy.yaml:16: listeners.0.tls.forward_client_cert: needs client_ca beside it; allowed: both, or neither
proxy.yaml:17: listeners.0.tls.tickets: "1" is not a switch; allowed: true or false
proxy.yaml:18: listeners.0.tls.trust_domain: needs client_ca beside it; allowed: both, or neither
proxy.yaml:19: listeners.1.tls.certificates: is empty; allowed: at least one certificate
proxy.yaml:20: listeners.2.tls.certificates: is missing; allowed: a list
proxy.yaml:21: listeners.3.tls: "yes" is not a mapping; allowed: a mapping, or off
proxy.yaml:22: listeners.4.limits.handshakes: "-1" is out of range; allowed: a whole number from 0 to 10000000 (0 = a quarter of the room)
proxy.yaml:22: listeners.4.timeouts.handshake: "0" is too short; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
=== acme
acme:
  directory: http://ca.example/directory
  domains: ["*.a.example", 10.0.0.1, B.example, b.example]
  eab: {kid: a, hmac_key: "?"}
  email: ops
  challenges: [dns-01]
  storage: {path: nowhere/acme}
listeners:
  - tls: {certificates: [{acme: true, directory: certs}, {acme: false}, {acme: true}]}
routes: [{service: a}]
--->
proxy.yaml:2: acme.directory: "http://ca.example/directory" does not begin with https://; allowed: an https:// URL
proxy.yaml:3: acme.domains.0: "*.a.example" is a wildcard, whose proof is in the DNS (dns-01): not supported; allowed: a host name such as www.example.com
proxy.yaml:3: acme.domains.1: "10.0.0.1" is an address; allowed: a host name such as www.example.com
proxy.yaml:3: acme.domains.3: "b.example" stands here a second time; allowed: each one once
proxy.yaml:4: acme.eab.hmac_key: the value is not base64url; allowed: base64url, as the server gives it
proxy.yaml:5: acme.email: "ops" is not an address of mail; allowed: an address such as ops@example.com
proxy.yaml:6: acme.challenges.0: "dns-01" is not a kind of challenge; allowed: http-01, tls-alpn-01
proxy.yaml:9: listeners.0.tls.certificates.0: is not one certificate; allowed: cert and key, directory, or acme
proxy.yaml:9: listeners.0.tls.certificates.1: is not one certificate; allowed: cert and key, directory, or acme
=== acme_of_nothing
acme: {directory: "https://ca.example/directory", domains: [], challenges: [], ca: none.pem, storage: {path: nowhere/acme}}
routes: [{service: a}]
--->
proxy.yaml:1: acme.ca: "none.pem" cannot be read (No such file or directory); allowed: a readable PEM file
proxy.yaml:1: acme.challenges: is empty; allowed: at least one kind of challenge
proxy.yaml:1: acme.domains: is empty; allowed: at least one name
proxy.yaml:1: acme.storage.path: "nowhere" is no directory; allowed: a directory in one that exists
=== acme_that_is_not_there
listeners: [{tls: {certificates: [{acme: true}]}}]
routes: [{service: a}]
--->
proxy.yaml:1: listeners.0.tls.certificates.0.acme: needs acme at the top of the file; allowed: both
=== access_log
access_log:
  path: /nowhere/access.log
  format: clf
  sample: 1.5
  query: 1
  level: info
routes: [{service: a}]
--->
proxy.yaml:2: access_log.path: "/nowhere" is no directory; allowed: a file in one that exists
proxy.yaml:3: access_log.format: "clf" is not an access log format; allowed: json, text, common, combined
proxy.yaml:4: access_log.sample: "1.5" is out of range; allowed: a number from 0 to 1
proxy.yaml:5: access_log.query: "1" is not a switch; allowed: true or false
proxy.yaml:6: access_log.level: is not a known key; allowed: %KEYS:AccessLogSettings
=== access_log_with_fields_that_do_not_exist
access_log: {fields: [status, user-agent, status]}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.fields.1: "user-agent" is not a field of the access log (did you mean "user_agent"?); allowed: %FIELDS
proxy.yaml:1: access_log.fields.2: "status" stands here a second time; allowed: each one once
=== access_log_with_fields_in_a_format_that_has_its_own
access_log: {format: combined, fields: [status]}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.fields: has no meaning for format combined; allowed: json, text
=== access_log_of_a_daemon_that_cannot_be_meant
access_log: {path: 'syslog:tcp://h:99999'}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.path: "syslog:tcp://h:99999" is no address of a syslog daemon; allowed: syslog:udp://HOST:PORT, syslog:tcp://HOST:PORT, syslog:unix:/PATH, syslog:, journald: or journald:/PATH
=== access_log_of_a_journal_at_a_relative_path
access_log: {path: 'journald:run/socket'}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.path: "journald:run/socket" is no absolute path; allowed: syslog:udp://HOST:PORT, syslog:tcp://HOST:PORT, syslog:unix:/PATH, syslog:, journald: or journald:/PATH
=== access_log_in_a_directory
access_log: {path: /}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.path: "/" is a directory; allowed: a file
=== access_log_with_too_long_a_name
access_log: {path: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/access.log}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.path: cannot be looked for (File name too long); allowed: a file in a directory
=== access_log_without_a_name
access_log: {path: ''}
routes: [{service: a}]
--->
proxy.yaml:1: access_log.path: "." is a directory; allowed: a file
=== several_registries
registry:
  type: etcd
  endpoints: ['http://a:1', 'http://b:1']
  backups:
    - {type: etcd, endpoints: ['http://b:1', 'http://a:1']}
    - {type: static}
    - {type: etcd}
    - {type: etcd, endpoints: ['http://c:1'], password: x}
  check_interval: 0
  snapshot: /nowhere/pools.json
  mass_loss_guard: {share: 2, window: 30}
routes: [{service: a}]
--->
proxy.yaml:5: registry.backups.0: is the same as registry; allowed: another one
proxy.yaml:6: registry.backups.1.type: "static" is no registry that could be up when another one is down; allowed: another type
proxy.yaml:7: registry.backups.2.endpoints: is missing; allowed for type etcd: at least one http://host:port
proxy.yaml:8: registry.backups.3.password: has no username; allowed: both of them, or neither
proxy.yaml:9: registry.check_interval: "0" is too short; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
proxy.yaml:10: registry.snapshot: "/nowhere" is no directory; allowed: a file in one that exists
proxy.yaml:11: registry.mass_loss_guard.share: "2" is out of range; allowed: a number from 0 to 1
proxy.yaml:11: registry.mass_loss_guard.window: "30" has no unit; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
=== snapshot_is_a_directory
registry: {type: etcd, endpoints: ['http://a:1'], snapshot: /}
routes: [{service: a}]
--->
proxy.yaml:1: registry.snapshot: "/" is a directory; allowed: a file
=== static_looks_nothing_up
registry: {mass_loss_guard: {}, backups: [{type: etcd, endpoints: ['http://b:1']}]}
routes: [{service: a}]
--->
proxy.yaml:1: registry.backups: has no meaning for type static; allowed: leave it out, or another type
proxy.yaml:1: registry.mass_loss_guard: has no meaning for type static; allowed: leave it out, or another type
=== health_checks
defaults:
  health_check: {type: tcp, path: /x}
services:
  a: {health_check: {type: exec}}
  b: {health_check: {command: 'true'}}
  c: {health_check: {type: ping}}
  d: {health_check: {type: http, expect: '999'}}
  e: {health_check: {type: http, host: 'a b', port: 65536}}
  f: {health_check: {type: tcp, host: users.internal, port: 8081}}
  g: {health_check: {type: exec, command: 'true', port: 8081}}
routes: [{service: a}]
--->
proxy.yaml:2: defaults.health_check.path: has no meaning for type tcp; allowed: only for http
proxy.yaml:4: services.a.health_check.command: is missing; allowed for type exec: a line for the shell
proxy.yaml:5: services.b.health_check.command: has no meaning for type tcp; allowed: only for exec
proxy.yaml:6: services.c.health_check.type: "ping" is not a kind of check; allowed: %CHECKS
proxy.yaml:7: services.d.health_check.expect: "999" is not a list of status codes; allowed: 200, 200-299 or 200,204
proxy.yaml:8: services.e.health_check.host: "a b" is not a host name; allowed: upstream.internal or host:port
proxy.yaml:8: services.e.health_check.port: "65536" is out of range; allowed: a whole number from 0 to 65535 (0 = the instance's own)
proxy.yaml:9: services.f.health_check.host: has no meaning for type tcp; allowed: only for http and grpc
proxy.yaml:10: services.g.health_check.port: has no meaning for type exec; allowed: only for http and tcp and grpc
=== registry_allow_static
registry: {allow: [127.0.0.1]}
routes: [{service: a}]
--->
proxy.yaml:1: registry.allow: has no meaning for type static; allowed: leave it out, or another type
=== registry_allow
registry: {type: etcd, endpoints: ["http://127.0.0.1:2379"], allow: [127.0.0.1, 169.254.0.0/8, link-local]}
routes: [{service: a}]
--->
proxy.yaml:1: registry.allow.1: "169.254.0.0/8" has bits set behind its prefix length (did you mean 169.0.0.0/8?); allowed: 10.0.0.0/8, fd00::/8 or one address
proxy.yaml:1: registry.allow.2: "link-local" is not a network; allowed: 10.0.0.0/8, fd00::/8 or one address
=== plugins
plugins: [json, "json:loads", "json:none_such", no.such_module, "no module"]
routes: [{service: a}]
--->
proxy.yaml:1: plugins.2: "json:none_such" does not load: AttributeError: module 'json' has no attribute 'none_such'; allowed: a name such as package.module, or package.module:Class
proxy.yaml:1: plugins.3: "no.such_module" does not load: ModuleNotFoundError: No module named 'no'; allowed: a name such as package.module, or package.module:Class
proxy.yaml:1: plugins.4: "no module" is not the name of a module; allowed: a name such as package.module, or package.module:Class
=== protocols
services:
  a: {protocol: h2c, tls: {ca: a.pem}}
  b: {protocol: h2, tls: off}
  c: {protocol: spdy}
  d: {instances: [{address: 10.0.0.1, port: 1, metadata: {protocol: http}}]}
routes: [{service: a}]
--->
proxy.yaml:2: services.a.protocol: is HTTP/2 without TLS, and `tls` is on; allowed: h2, or no tls
proxy.yaml:3: services.b.protocol: is HTTP/2 under TLS, and `tls` is off; allowed: h2c, or tls
proxy.yaml:4: services.c.protocol: "spdy" is not a protocol; allowed: h1, h2c, h2, grpc
proxy.yaml:5: services.d.instances.0.metadata.protocol: "http" is not a protocol; allowed: h1, h2c, h2, grpc
=== the PROXY protocol to instances
defaults: {send_proxy_protocol: v1}
services:
  a: {protocol: h2c}
  b: {send_proxy_protocol: v3}
  c: {send_proxy_protocol: v2, protocol: grpc}
  d: {send_proxy_protocol: off, protocol: h2c}
routes: [{service: a}]
--->
proxy.yaml:3: services.a.protocol: has no meaning beside send_proxy_protocol, since many clients share its connections; allowed: h1, or send_proxy_protocol: off
proxy.yaml:4: services.b.send_proxy_protocol: "v3" is not a version of the PROXY protocol; allowed: off, v1, v2
proxy.yaml:5: services.c.protocol: has no meaning beside send_proxy_protocol, since many clients share its connections; allowed: h1, or send_proxy_protocol: off
=== fallback_instances
services:
  a: {fallback_instances: [{id: x, address: 10.0.0.1, port: 1}, {id: x, address: 10.0.0.2, port: 1}]}
routes: [{service: a}]
--->
proxy.yaml:2: services.a.fallback_instances.1.id: "x" is already the id of services.a.fallback_instances.0; allowed: a different id for each instance
=== malformed_ejection
services: {a: {ejection: {base: 3}}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.ejection.base: "3" has no unit; allowed: a duration such as 250ms, 3s, 2m or 1h, more than 0
=== ejection_is_no_switch
services: {a: {ejection: on}}
routes: [{service: a}]
--->
proxy.yaml:1: services.a.ejection: "on" is not a mapping; allowed: a mapping, or off
=== all_at_once
workers: 0
listeners: [{bind: 1}]
services:
  a:
    balancer: {type: consistent_hash, bounded_load: 0.1}
    instances: [{id: i, address: 10.0.0.1}, {id: i, address: 10.0.0.2, port: 1}]
routes:
  - {path_prefix: a, methods: [GETT], service: a}
  - {service: b}
  - {service: c}
--->
proxy.yaml:1: workers: "0" is not a number of processes; allowed: auto, or a whole number from 1 to 256
proxy.yaml:2: listeners.0.bind: "1" has no port; allowed: host:port, [IPv6]:port or unix:/path
proxy.yaml:5: services.a.balancer.bounded_load: "0.1" is out of range; allowed: 0, or a number from 1 to 100
proxy.yaml:6: services.a.instances.0.port: is missing; allowed: a whole number from 1 to 65535
proxy.yaml:8: routes.0.methods.0: "GETT" is not a method (did you mean "GET"?); allowed: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS and others
proxy.yaml:8: routes.0.path_prefix: "a" does not begin with /; allowed: a path such as /orders or /svc/{service}
proxy.yaml:10: routes.2: can never match, because routes.1 takes all its requests; allowed: move it up, or give it other conditions
"""


def cases() -> list[object]:
    params: list[object] = []
    for case in TABLE.split("\n=== ")[1:]:
        name, _, rest = case.partition("\n")
        text, _, expected = rest.partition("--->\n")
        for word, names in NAMES.items():
            expected = expected.replace(word, ", ".join(names))
        params.append(pytest.param(text, expected.splitlines(), id=name))
    return params


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "proxy.yaml", ENVIRON)
    return [str(complaint) for complaint in caught.value.complaints]


def test_the_table_is_read_whole() -> None:
    assert len(cases()) == TABLE.count("--->\n") >= 60


@pytest.mark.parametrize(("text", "expected"), cases())
def test_complaints(text: str, expected: list[str]) -> None:
    assert expected
    assert complaints(text) == expected


@pytest.mark.parametrize(("text", "expected"), cases())
def test_complaints_are_in_plain_words(text: str, expected: list[str]) -> None:
    """None of the schema library's own wording, and each says what is allowed instead."""
    for line in complaints(text):
        assert "Input should" not in line
        assert "validation error" not in line
        assert "pydantic" not in line
        assert "; " in line.partition(": ")[2] or "not valid YAML" in line


def test_tab() -> None:
    assert complaints("admin:\n\tbind: 127.0.0.1:9900\n") == [
        r"proxy.yaml:2: not valid YAML: found character '\t' that cannot start any token; indent with spaces"
    ]


def test_control_characters() -> None:
    assert complaints("routes:\n  - service: \x07\n") == [
        "proxy.yaml:2: not text: it holds the character 0x07; allowed: printable characters, tabs and line ends"
    ]
    assert complaints('routes:\n  - service: "\\a"\n') == [
        r'proxy.yaml:2: routes.0.service: "\x07" is not a usable name; allowed: 1 to 128 letters, digits and . _ ~ : @ + -'
    ]


def test_a_complaint_about_an_inherited_setting_comes_once() -> None:
    text = "defaults: {timeouts: {connect: 3}}\nservices: {a: {}, b: {}}\nroutes: [{service: a}]\n"
    assert complaints(text) == [
        'proxy.yaml:1: defaults.timeouts.connect: "3" has no unit; allowed: a duration such as 250ms, 3s, 2m or 1h (0 = no limit)'
    ]


@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_nesting_ends(depth: int) -> None:
    assert complaints("a: " + "[" * depth + "]" * depth) == [
        "proxy.yaml: nested too deeply; allowed: 32 levels"
    ]


def test_aliases_that_unfold_without_end_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert complaints("\n".join(lines)) == [
        "proxy.yaml: aliases unfold it to more than 200000 values; allowed: fewer aliases"
    ]


def test_an_alias_inside_its_own_anchor_is_stopped() -> None:
    assert complaints("a: &a [*a]\n") == ["proxy.yaml: nested too deeply; allowed: 32 levels"]


class TestFiles:
    def lines(self, path: Path) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == "\n".join(map(str, caught.value.complaints))
        return [
            str(complaint).replace(str(path.parent), "DIR") for complaint in caught.value.complaints
        ]

    def write(self, tmp_path: Path, content: bytes) -> Path:
        path = tmp_path / "proxy.yaml"
        path.write_bytes(content)
        return path

    def test_missing(self, tmp_path: Path) -> None:
        assert self.lines(tmp_path / "proxy.yaml") == [
            "DIR/proxy.yaml: there is no such file; allowed: a YAML file"
        ]

    def test_directory(self, tmp_path: Path) -> None:
        (tmp_path / "proxy.yaml").mkdir()
        assert self.lines(tmp_path / "proxy.yaml") == [
            "DIR/proxy.yaml: is a directory; allowed: a YAML file"
        ]

    def test_unreadable(self, tmp_path: Path) -> None:
        # A loop of links, and not mode 000, which root may read nevertheless.
        (tmp_path / "proxy.yaml").symlink_to(tmp_path / "proxy.yaml")
        assert self.lines(tmp_path / "proxy.yaml") == [
            "DIR/proxy.yaml: cannot be read (Too many levels of symbolic links); allowed: a YAML file"
        ]

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"# routes:\n", b"---\n", b"~\n"])
    def test_empty(self, tmp_path: Path, content: bytes) -> None:
        assert self.lines(self.write(tmp_path, content)) == [
            "DIR/proxy.yaml: is empty; allowed: at least one route under routes:"
        ]

    def test_binary(self, tmp_path: Path) -> None:
        content = b"routes:\n  - service: a\n\x89PNG\x00\xff"
        assert self.lines(self.write(tmp_path, content)) == [
            "DIR/proxy.yaml:3: not text: the byte 0x89 is not UTF-8; allowed: UTF-8"
        ]

    def test_zeros(self, tmp_path: Path) -> None:
        assert self.lines(self.write(tmp_path, b"\x00" * 10)) == [
            "DIR/proxy.yaml:1: not text: it holds the character 0x00; allowed: printable characters, tabs and line ends"
        ]

    def test_too_large(self, tmp_path: Path) -> None:
        assert self.lines(self.write(tmp_path, b"#" * (1024 * 1024 + 1))) == [
            "DIR/proxy.yaml: is too large; allowed: 1048576 bytes"
        ]

    def test_a_device_without_end(self) -> None:
        assert self.lines(Path("/dev/zero")) == ["DIR/zero: is a device; allowed: a YAML file"]

    def test_tls_files(self, tmp_path: Path) -> None:
        (tmp_path / "good.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        (tmp_path / "bad.pem").write_text("certificate")
        path = self.write(
            tmp_path,
            b"registry:\n  type: etcd\n  endpoints: ['https://a:1']\n"
            b"  tls:\n    ca: bad.pem\n    cert: good.pem\nroutes: [{service: a}]\n",
        )
        assert self.lines(path) == [
            'DIR/proxy.yaml:5: registry.tls.ca: "DIR/bad.pem" holds no PEM block; allowed: a readable PEM file',
            "DIR/proxy.yaml:6: registry.tls.cert: needs key beside it; allowed: both of them, or neither",
        ]
