-- Pause a job: at once while it waits, at its worker's next sign of life while it runs.
-- ARGV: id
-- Returns the status it has now, or '' if there is no such job.
go_on_without_memory()
local status = get(ARGV[1], 'status')
if status == 'running' and get(ARGV[1], 'wish') ~= 'cancel' then
  redis.call('HSET', JOB .. ARGV[1], 'wish', 'pause')
end
if status == 'queued' then
  withdraw(ARGV[1])
  enter(ARGV[1], 'paused')
end
return get(ARGV[1], 'status') or ''
