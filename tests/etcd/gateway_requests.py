"""What is asked of both gateways: (path below /v3/, body) pairs."""

FOO = '"key":"Zm9v"'

#: Bodies of kv/range that say the same to both, or fail alike.
RANGES = [
    "{" + FOO + "}",
    "",
    "{}",
    "null",
    "  {" + FOO + "}  ",
    "{" + FOO + "} trailing",
    "{" + FOO + ',"unknown":{"b":[[{}]]}}',
    "{" + FOO + ',"key":"Zm9w"}',
    '{"KEY":"Zm9v"}',
    '{"key":null}',
    '{"key":[102,111,111]}',
    '{"key":"Zm\\n9v"}',
    '{"key":"AA==","range_end":"AA==","count_only":true}',
    '{"key":"AA==","rangeEnd":"AA==","range_end":"Zm9w","limit":"1","keys_only":true}',
    "{" + FOO + ',"limit":"1","revision":1}',
    "{" + FOO + ',"limit":" 5 "}',
    "{" + FOO + ',"limit":"null"}',
    "{" + FOO + ',"limit":null}',
    "{" + FOO + ',"limit":-5}',
    "{" + FOO + ',"revision":1000000}',
    "{" + FOO + ',"sort_order":"DESCEND","sortTarget":"MOD"}',
    "{" + FOO + ',"sort_order":2}',
]
BAD_SYNTAX = [
    *("{bad", "[]", "hello", '"x"', "5", "-", "1.5", "true", "}", "]", ",", "{,}", "é", "{'key':1}"),
    *('{"key":"YQ=="', '{"key":"YQ==",}', '{"key" "YQ=="}', '{"key":YQ}', '{"key":"YQ==', '{"key":"YQ==\\q"}'),
    *('{"a":tru}', '{"a":nul', '{"a":[1 2]}', '{"a":[1,]}', '{"a":[}', '{"a":1 "b":2}', '{"a":01}', '{"a":1.x}'),
    *('{"a":1ex}', '{"a":1e+x}', '{"a":-x}', '{"a":"\\u12x"}', '{"a":NaN}', '{"a":-Infinity}', '{"a":"\x01"}'),
    *('{"a" ', '{"a":', '{"a":1', '{"a":é}', '{"a":"\n"}'),
]
BAD_VALUES = [
    *('"limit":1.5', '"limit":true', '"limit":""', '"limit":1e2', '"limit":[5]', '"limit":"x"', '"limit":"5 5"'),
    *('"limit":"5a"', '"limit":"-"', '"limit":"+5"', '"limit":"tru"', '"limit":"1."', '"limit":{}'),
    *('"limit":"99999999999999999999"', '"limit":99999999999999999999', '"limit":9223372036854775808'),
    *('"serializable":"yes"', '"serializable":"true"', '"serializable":1', '"serializable":[]'),
    *('"sort_order":"XX"', '"sort_order":"a\\"b"', '"sort_order":"a\\nb"', '"sort_order":1.5', '"sort_order":true'),
    *('"sort_order":[]', '"sort_order":"1"', '"sort_order":3000000000'),
    *('"key":5', '"key":true', '"key":{}', '"key":["a"]', '"key":[256]'),
]
BAD_BASE64 = [
    *("!!!", "Zm9vYQ", "-_-_", "YQ===", "YQ=x", "Y", "YQ==YQ==", "YWFhYQ==x", "YWF hYQ==", "YWE", "Y===", "="),
    *("YWFhYWE=YQ==", "YQ=", "YQ=\\n", "YQ=\\n=", "YQ==\\n", "é"),
]
TRANSACTIONS = [
    "{}",
    '{"compare":[{"key":"Zm9v","result":"EQUAL","target":"CREATE","create_revision":"1"}],'
    '"failure":[{"requestTxn":{"success":[{"requestRange":{"key":"Zm9v"}}]}}]}',
    '{"compare":[{"key":"Zm9v","target":"VALUE","result":"NOT_EQUAL","value":"Yw=="}],'
    '"success":[{"request_range":{"key":"Zm9v"}},{"request_put":{"key":"Zm9w","value":"eA==","prev_kv":true}},'
    '{"requestDeleteRange":{"key":"eg=="}}]}',
    '{"compare":[{"key":"YQ==","version":0}]}',
    '{"compare":[null],"success":[null]}',
    '{"success":[{}]}',
    '{"success":[5]}',
    '{"compare":{},"success":[]}',
    '{"success":[{"request_range":{"key":"YQ=="},"request_put":null}]}',
    '{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}',
]
#: In order: each finds what those before it left behind.
CALLS = [
    ("kv/put", '{"key":"Zm9v","value":"YmFy","prev_kv":true}'),
    ("kv/put", '{"key":"Zm9v","value":"YmF6","prev_kv":true}'),
    ("kv/put", '{"key":"Zm9v","lease":"77"}'),
    ("kv/put", '{"key":"Zm9v","ignore_value":true,"value":"YQ=="}'),
    *(("kv/txn", body) for body in TRANSACTIONS),
    ("kv/deleterange", '{"key":"Zm9v","prev_kv":true}'),
    ("kv/deleterange", '{"key":"Zm9v"}'),
    ("kv/compaction", '{"revision":"1000000"}'),
    ("lease/grant", '{"TTL":"600","ID":"123"}'),
    ("lease/grant", '{"TTL":600,"ID":123}'),
    ("lease/grant", '{"TTL":"99999999999"}'),
    ("lease/keepalive", '{"ID":"123"}'),
    ("lease/keepalive", '{"ID":"123"}{"ID":"124"}{"ID":123}'),
    ("lease/keepalive", ""),
    ("lease/keepalive", '{"ID":"123"}{bad'),
    ("lease/keepalive", "bad"),
    ("lease/keepalive", '{"ID":"x"}'),
    ("lease/timetolive", '{"ID":"124","keys":true}'),
    ("kv/lease/timetolive", '{"ID":"124"}'),
    ("lease/leases", "{}"),
    ("kv/lease/leases", ""),
    ("lock/lock", '{"name":"bG9jaw==","lease":"123"}'),
    ("lock/lock", '{"name":"bG9jaw==","lease":"123"}'),
    ("lock/lock", '{"name":"bG9jaw==","lease":"77"}'),
    ("lock/lock", '{"name":"bG9jaw==","lease":1.5}'),
    ("lock/unlock", '{"key":"bG9jay83Yg=="}'),
    ("lock/unlock", '{"key":"bG9jay83Yg=="}'),
    ("lock/unlock", "{}"),
    ("election/leader", '{"name":"ZQ=="}'),
    ("election/campaign", '{"name":"ZQ==","lease":"123","value":"YQ=="}'),
    ("election/leader", '{"name":"ZQ=="}'),
    ("election/campaign", '{"name":"ZQ==","lease":"123","value":"Yg=="}'),
    ("election/campaign", '{"name":"ZQ==","lease":"77","value":"Yg=="}'),
    ("election/proclaim", '{"value":"YQ=="}'),
    ("election/proclaim", '{"leader":{"name":"ZQ==","key":"ZQ==","rev":1,"lease":"77"},"value":"YQ=="}'),
    ("election/resign", "{}"),
    ("election/resign", '{"leader":{}}'),
    ("election/resign", '{"leader":{"name":"ZQ==","key":"ZQ==","rev":1}}'),
    ("election/observe", "bad"),
    ("kv/lease/revoke", '{"ID":"123"}'),
    ("lease/revoke", '{"ID":"123"}'),
    ("election/leader", '{"name":"ZQ=="}'),
    ("cluster/member/add", '{"peerURLs":["bad"]}'),
    ("cluster/member/add", '{"peerURLs":"x"}'),
    ("cluster/member/add", '{"peerURLs":[5]}'),
    ("cluster/member/promote", '{"ID":"5"}'),
    ("cluster/member/remove", '{"ID":"5"}'),
    ("cluster/member/remove", '{"ID":-5}'),
    ("maintenance/alarm", "{}"),
    ("maintenance/defragment", "{}"),
    ("maintenance/transfer-leadership", '{"targetID":"5"}'),
    ("maintenance/snapshot", "bad"),
    ("maintenance/hashkv", "{}"),
    ("auth/user/add", '{"name":"<a>&\\u2028\\u0001é\\ud800","options":{"no_password":true}}'),
    ("auth/user/list", "{}"),
    ("auth/user/delete", '{"name":"<a>&\\u2028\\u0001é\\ufffd"}'),
    ("auth/user/get", '{"name":5}'),
    ("auth/user/get", '{"name":"nobody"}'),
    ("auth/authenticate", '{"name":"a","password":"b"}'),
    ("watch", "bad"),
    ("watch", '{"create_request":5}'),
    ("watch", '{"create_request":{"filters":["X"]}}'),
]
#: (path, body, headers): calls that the client bounds, and other headers.
HEADED = [
    ("kv/range", "{" + FOO + "}", {"Grpc-Timeout": "5S"}),
    ("kv/range", "{" + FOO + "}", {"Grpc-Timeout": "bad"}),
    ("kv/range", "{" + FOO + "}", {"Grpc-Timeout": "-5S"}),
    ("kv/range", "{" + FOO + "}", {"Grpc-Metadata-Hasleader": "true"}),
    ("kv/range", "{" + FOO + "}", {"Content-Type": "text/plain"}),
    ("lock/lock", "bad", {"Grpc-Timeout": "300m"}),
]
#: (method, whole path)
PATHS = [
    *(
        (method, path)
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
        for path in ("/v3/kv/range", "/nope")
    ),
    *(
        ("POST", path)
        for path in ("/v3/kv/nope", "/nope", "/v3/kv/range/", "/v3/", "/v3alpha/kv/put", "/v3beta/nope", "/")
    ),
    *((method, path) for method in ("POST", "HEAD", "PUT", "OPTIONS") for path in ("/health", "/version")),
    *(("GET", path) for path in ("/health", "/health?serializable=true", "/health/x", "/metrics/", "/version/")),
]
