// A client of exec by others: node's spdy-transport.  node oracle.js HOST PORT PATH < what to say on stdin
// Prints what each stream said, as JSON, when all have ended.
'use strict'
const net = require('net')
const transport = require('spdy-transport')
const Stream = require('spdy-transport/lib/spdy-transport/stream').Stream

// Kubernetes' servers answer a stream with no headers at all; a browser wants an HTTP status.
Stream.prototype._handleResponse = function (frame) {
  this._spdyState.needResponse = false
  this.emit('response', 200, frame.headers)
}

const [host, port, path] = process.argv.slice(2)
const socket = net.connect(port, host)
const kinds = ['error', 'stdin', 'stdout', 'stderr']
const heard = { pings: 0 }

function open (connection, index) {
  if (index === kinds.length) return
  const kind = kinds[index]
  heard[kind] = ''
  connection.request({ method: 'POST', path: '/', host, headers: { streamtype: kind } }, (error, stream) => {
    if (error) throw error
    stream.on('response', () => {
      if (kind === 'stdin') process.stdin.on('end', () => stream.end()).on('data', (said) => stream.write(said)).resume()
      open(connection, index + 1)
    })
    stream.on('data', (content) => { heard[kind] += content })
    stream.on('end', () => {
      if (kind === 'stdin') return
      heard.ended = (heard.ended || 0) + 1
      if (heard.ended === 3) connection.ping(() => { heard.pings++; console.log(JSON.stringify(heard)); socket.destroy() })
    })
  })
}

socket.write(`POST ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n` +
  'X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n')
let head = ''
socket.on('readable', function begin () {
  const read = socket.read()
  if (read === null) return
  head += read
  if (!head.endsWith('\r\n\r\n')) return
  socket.removeListener('readable', begin)
  if (!head.startsWith('HTTP/1.1 101 ')) throw new Error(head)
  const connection = transport.connection.create(socket, { protocol: 'spdy', isServer: false })
  connection.on('error', (error) => { throw error })
  connection.start(3.1)
  open(connection, 0)
})
