-- Take the first message of the outbox that is due, for a time in which nobody else will.
-- ARGV: lease ms
-- Returns {id, attempts made}, or nothing if none is due.
go_on_without_memory()
local at = now()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', at, 'LIMIT', 0, 100)) do
  if redis.call('HEXISTS', JOB .. id, 'webhook') == 1 then
    redis.call('ZADD', OUTBOX, at + ARGV[1], id)
    return {id, redis.call('LLEN', JOB .. id .. ':deliveries')}
  end
  redis.call('ZREM', OUTBOX, id)
end
return nil
