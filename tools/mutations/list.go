package main

// mutation is a bug that the tests must find: a promise broken at one place.
type mutation struct {
	name     string
	file     string // from the root of the repository
	old, new string // old is there once
	tests    []string
}

// What is run to find a bug: packages, and flags of their tests.
func tests(args ...string) []string { return args }

// mutations are all of them.
func mutations() []mutation { return append(ofTheEngine(), ofItsPorts()...) }

func ofTheEngine() []mutation {
	engine := tests("./engine", "-seeds", "300")
	return []mutation{
		{
			"ack before the handler", "engine/life.go",
			"	e.takeSlot(it, now)\n", "	e.takeSlot(it, now)\n	e.ackDelivery(it.delivery)\n", engine,
		},
		{
			"ack before the copies are sent and the record is written", "engine/life.go",
			"	p, held := e.plan(it, d, copies, time.Now()), it.held\n", "	p, held := e.plan(it, d, copies, time.Now()), it.held\n	e.ackDelivery(it.delivery)\n", engine,
		},
		{
			"ack of what was not settled because the engine stops", "engine/life.go",
			"		e.forget(it) // un-acked: the broker delivers it again\n", "		e.ack(it)\n", engine,
		},
		{
			"a copy that was not sent counts as sent", "engine/settle.go",
			"			if err = e.cfg.Broker.Publish(ctx, out); err == nil ||", "			if _ = e.cfg.Broker.Publish(ctx, out); err == nil ||", engine,
		},
		{
			"what has to wait to be settled is not claimed", "engine/settle.go",
			"err == nil || held != nil ||", "true || held != nil ||", engine,
		},
		{
			"ack of what somebody else has", "engine/life.go",
			"		e.lookAgain(it) // somebody else has it\n", "		e.ack(it)\n", engine,
		},
		{
			"a record is finished whatever it says", "engine/guard.go",
			"	return guard(r, c.Hop) && r.of(c.Type, c.Digest) && (c.TakeBack", "	return r.of(c.Type, c.Digest) && (c.TakeBack", tests("./engine/enginetest"),
		},
		{
			"a stale hop is run", "engine/life.go",
			"	case rec.Hop > it.msg.hop:\n", "	case false:\n", engine,
		},
		{
			"a claim is given up before the handler has ended", "engine/life.go",
			"			ctx = held.attempt\n", "			ctx = held.attempt\n			held.drop()\n", engine,
		},
		{
			"a crash of the plugin is charged as an attempt", "engine/classify.go",
			"return decision{action: actAgain, crash: true,", "return decision{action: actAgain, counted: true, crash: true,", engine,
		},
		{
			"an attempt on what a handler needs is charged while that is away", "engine/breaker.go",
			"		return decision{action: actDefer, wait", "		return decision{action: actDefer, counted: true, wait", engine,
		},
		{
			"a parked body is dropped before its copy is sent", "engine/release.go",
			"	parked.Headers[HeaderQueuedAt] = millisText(waitsSince)\n",
			"	parked.Headers[HeaderQueuedAt] = millisText(waitsSince)\n	_ = r.bodies.Drop(ctx, rec.ID, rec.Hop)\n", engine,
		},
		{
			"a guard that did not hold counts as one's own write", "engine/settle.go",
			"errors.Is(err, ErrGuarded) && rec.Token == p.change.Token", "errors.Is(err, ErrGuarded)", engine,
		},
		{
			"what was tried is forgotten with the session", "engine/item.go",
			"	e.remember(it)\n	e.forget(it)\n", "	e.forget(it)\n", engine,
		},
	}
}

func ofItsPorts() []mutation {
	stomp := tests("./engine/stomp", "-run", "^TestSubscribes|^TestBrokerConforms$|^TestAcks|^TestPublish|^TestConcurrent")
	return []mutation{
		{
			"a subscription whose acks are cumulative", "engine/stomp/delivery.go",
			`"client-individual"`, `"client"`, stomp,
		},
		{
			"a subscription that acks by itself", "engine/stomp/delivery.go",
			`"client-individual"`, `"auto"`, stomp,
		},
		{
			"nack in place of ack", "engine/stomp/delivery.go",
			"return frame.New(frame.ACK, frame.Id, ack)", "return frame.New(frame.NACK, frame.Id, ack)", stomp,
		},
		{
			"a message that a restart of the broker forgets", "engine/stomp/delivery.go",
			`headerPersistent, "true"`, `headerPersistent, "false"`, stomp,
		},
		{
			"sent, and no receipt waited for", "engine/stomp/publish.go",
			"		err = s.Request(ctx, build())\n", "		_, err = s.Ask(ctx, build())\n", stomp,
		},
		{
			"deliveries are dropped when there are many", "engine/stomp/broker.go",
			"	if b.current == c {\n", "	if b.current == c && len(b.deliveries) < 10 {\n", stomp,
		},
		{
			"a refused condition counts as one's own write", "engine/dynamo/put.go",
			"fields(there).text(attrNonce) == nonce", "true", tests("./engine/dynamo", "-run", "^TestRecords$|^TestArchive$"),
		},
		{
			"the table may forget a record that waits", "engine/dynamo/dynamo.go",
			"	if !r.State.Final() {\n", "	if false {\n", tests("./engine/dynamo", "-run", "^TestRecords$|Forget"),
		},
		{
			"the table may forget a parked body", "engine/dynamo/bodies.go",
			"number(toMillis(time.Now()))\n	_, err = r.client.PutItem", "number(toMillis(time.Now()))\n	it[attrTTL] = it[attrKeptAt]\n	_, err = r.client.PutItem",
			tests("./engine/dynamo", "-run", "Forget"),
		},
		{
			"a letter is acked before it is in the archive", "engine/monitor/monitor.go",
			"	l, content := engine.DeadLetterOf(d, m.cfg.Source.Queue(d), time.Now())\n",
			"	l, content := engine.DeadLetterOf(d, m.cfg.Source.Queue(d), time.Now())\n	_ = m.ack(d)\n", tests("./engine/monitor"),
		},
	}
}
