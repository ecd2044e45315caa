/** The few AMQP 0-9-1 frames that it takes to log in and say good-bye. */
import type { Socket } from "node:net";
import { talk } from "./probe.ts";

const CONNECTION = 10;
const method = { start: 10, startOk: 11, tune: 30, tuneOk: 31, open: 40, openOk: 41, close: 50, closeOk: 51 };

/**
 * Logs in to the default virtual host and closes in good order; resolves with the server's version.
 * The port opens before every virtual host has recovered its queues; only an open connection proves both.
 */
export function amqpProbe(port: number): Promise<string> {
  let version = "unknown";
  let read = 0;
  return talk(port, "AMQP\0\0\u0009\u0001", (received, socket) => {
    for (;;) {
      const frame = received.subarray(read);
      if (frame.length < 7) return undefined;
      const size = frame.readUInt32BE(3);
      if (frame.length < size + 8) return undefined;
      read += size + 8;
      const [classId, methodId, body] = [
        frame.readUInt16BE(7),
        frame.readUInt16BE(9),
        frame.subarray(11, 7 + size),
      ];
      if (classId !== CONNECTION) throw new Error(`unexpected AMQP class ${classId}`);
      if (methodId === method.closeOk) return version;
      if (methodId === method.start) version = versionIn(body) ?? version;
      answer(methodId, body, socket);
    }
  });
}

function answer(methodId: number, body: Buffer, socket: Socket): void {
  switch (methodId) {
    case method.start:
      return send(socket, method.startOk, uint32(0), short("PLAIN"), long("\0guest\0guest"), short("en_US"));
    case method.tune: {
      // Its own limits back, and no heartbeat.
      send(socket, method.tuneOk, body.subarray(0, 6), Buffer.from([0, 0]));
      return send(socket, method.open, short("/"), short(""), Buffer.from([0]));
    }
    case method.openOk:
      return send(socket, method.close, Buffer.from([0, 200]), short(""), uint32(0));
    default:
      // close: refused, with the reason as text
      throw new Error(`AMQP login failed: ${body.toString("latin1", 3)}`);
  }
}

/** The entry `version` of the server's properties: its name, type S, length, text. */
function versionIn(body: Buffer): string | undefined {
  const at = body.indexOf("\u0007versionS", 0, "latin1") + 9;
  if (at < 9) return undefined;
  return body.toString("latin1", at + 4, at + 4 + body.readUInt32BE(at));
}

function send(socket: Socket, methodId: number, ...fields: readonly Buffer[]): void {
  const payload = Buffer.concat([Buffer.from([0, CONNECTION, 0, methodId]), ...fields]);
  const frame = [Buffer.from([1, 0, 0]), uint32(payload.length), payload, Buffer.from([0xce])];
  socket.write(Buffer.concat(frame));
}

function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
}

function short(text: string): Buffer {
  return Buffer.from(String.fromCharCode(text.length) + text, "latin1");
}

function long(text: string): Buffer {
  return Buffer.concat([uint32(text.length), Buffer.from(text, "latin1")]);
}
