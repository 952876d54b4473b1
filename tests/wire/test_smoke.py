from tests.wiring import OK, OK_RELAYED, Wire, forwarded, request


def test_one() -> None:
    wire = Wire()
    c = wire.client()
    c.send(request("GET /x"))
    a = wire.accepted()
    a.expect(forwarded("GET /x"))
    a.send(OK)
    c.expect(OK_RELAYED)
    wire.done()
